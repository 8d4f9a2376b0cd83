//! Every instance of the applications is found, or none.

use super::{Mutation, Test, beside, within};

const TRANSPORT: &str = "crates/pause/src/dns/transport.rs";

const fn dns(name: &'static str) -> Test {
    beside("cassy-pause", "dns", name)
}

pub(super) const RULES: &[Mutation] = &[
    Mutation {
        name: "datagrams-believed",
        removed: "DNS is asked over TCP wherever it can be reached so",
        file: TRANSPORT,
        find: "None => match connected(server).await {",
        replace: "None => match connected(server).await.and(Err::<TcpStream, _>(ExchangeError::Silent(CONNECT_LIMIT))) {",
        test: dns("a_part_of_the_instances_is_not_taken_for_all"),
    },
    Mutation {
        name: "truncated-datagrams-believed",
        removed: "an answer that does not fit into a datagram is none",
        file: TRANSPORT,
        find: "if answer.truncated { Err(ExchangeError::NoTcp { no_tcp }) }",
        replace: "if answer.truncated && no_tcp.is_empty() { Err(ExchangeError::NoTcp { no_tcp }) }",
        test: dns("an_answer_that_does_not_fit_into_a_datagram_needs_tcp"),
    },
    Mutation {
        name: "hosts-file-passed-over",
        removed: "what the hosts file says of an instance comes before what DNS says",
        file: "crates/pause/src/dns/mod.rs",
        find: "if !listed.is_empty() {",
        replace: "if false {",
        test: within(
            "cassy-pause",
            "dns::tests::what_the_hosts_file_says_comes_first_and_else_every_address_is_found",
        ),
    },
];
