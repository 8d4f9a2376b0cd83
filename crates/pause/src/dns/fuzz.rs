//! Messages of a hostile server.

use std::net::{Ipv4Addr, Ipv6Addr};

use cassy_fuzz::Fuzz;

use super::message::{Answer, Data, Kind, MessageError, Query, Record};
use super::name::Name;

const ID: u16 = 0x1234;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn query(kind: Kind) -> Query {
    Query { id: ID, name: name("_app._tcp.example.com"), kind }
}

/// The header and question of an answer, with so many records to follow.
fn head(kind: Kind, flags: u16, answers: u16) -> Vec<u8> {
    let mut message = query(kind).encode();
    message[2..4].copy_from_slice(&flags.to_be_bytes());
    message[6..8].copy_from_slice(&answers.to_be_bytes());
    message
}

/// A record of the name in the question, by a pointer.
fn record(message: &mut Vec<u8>, kind: u16, data: &[u8]) {
    message.extend_from_slice(&[0xc0, 12]);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
    message.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
    message.extend_from_slice(data);
}

/// An SRV record, its target an own label before a name that is there already, at this place.
fn srv(label: &[u8], place: u8) -> Vec<u8> {
    let mut data = vec![0, 0, 0, 5, 0xea, 0x60, u8::try_from(label.len()).unwrap()];
    data.extend_from_slice(label);
    data.extend_from_slice(&[0xc0, place]);
    data
}

fn good() -> Vec<u8> {
    let mut message = head(Kind::Srv, 0x8180, 3);
    record(&mut message, 33, &srv(b"App1", 22));
    record(&mut message, 33, &srv(b"app2", 22));
    record(&mut message, 1, &[192, 0, 2, 1]);
    message
}

#[test]
fn an_answer_is_read_with_names_that_point_back() {
    let answer = Answer::read(&query(Kind::Srv), &good()).unwrap();
    let target = |host| Data::Srv { port: 60000, target: name(host) };
    let data: Vec<Data> = answer.records.into_iter().map(|Record { data, .. }| data).collect();
    let address = Data::A(Ipv4Addr::new(192, 0, 2, 1));
    assert_eq!(data, [target("app1.example.com"), target("app2.example.com"), address]);
    let mut six = head(Kind::Aaaa, 0x8180, 1);
    record(&mut six, 28, &Ipv6Addr::LOCALHOST.octets());
    let answer = Answer::read(&query(Kind::Aaaa), &six).unwrap();
    assert_eq!(answer.records[0].data, Data::Aaaa(Ipv6Addr::LOCALHOST));
}

#[test]
fn what_was_not_asked_for_is_no_answer() {
    let read = |message: &[u8]| Answer::read(&query(Kind::Srv), message).unwrap_err();
    let changed = |at: usize, byte: u8| {
        let mut message = good();
        message[at] = byte;
        message
    };
    for (what, message) in [
        ("another number", changed(0, 0)),
        ("a question", changed(2, 0x01)),
        ("another kind of message", changed(2, 0xa8)),
        ("two questions", changed(5, 2)),
        ("no question", changed(5, 0)),
        ("another name", changed(13, b'x')),
        ("another type", changed(36, 1)),
        ("another class", changed(38, 3)),
    ] {
        assert_eq!(read(&message), MessageError::Foreign, "{what}");
    }
}

#[test]
fn names_in_a_circle_or_without_measure_are_refused() {
    let one = |data: &[u8]| {
        let mut message = head(Kind::Srv, 0x8180, 1);
        record(&mut message, 33, data);
        Answer::read(&query(Kind::Srv), &message)
    };
    // The target begins at 57: 39 bytes of head, 12 of the record, 6 before the target.
    assert_eq!(one(&[0, 0, 0, 0, 0, 1, 0xc0, 57]).unwrap_err(), MessageError::Pointer, "to itself");
    assert_eq!(
        one(&[0, 0, 0, 0, 0, 1, 1, b'a', 0xc0, 57]).unwrap_err(),
        MessageError::Pointer,
        "in a circle"
    );
    assert_eq!(one(&[0, 0, 0, 0, 0, 1, 0xff, 0xff]).unwrap_err(), MessageError::Pointer, "forward");
    assert_eq!(
        one(&[0, 0, 0, 0, 0, 1, 0x40, 0]).unwrap_err(),
        MessageError::Name,
        "an unknown kind of label"
    );
    let long: Vec<u8> =
        [&[0, 0, 0, 0, 0, 1][..], &[&[63][..], &[b'a'; 63]].concat().repeat(4), &[0]].concat();
    assert_eq!(one(&long).unwrap_err(), MessageError::Name, "257 bytes");
    assert_eq!(one(&[0, 0, 0, 0, 0, 1, 0xc0, 22, 0]).unwrap_err(), MessageError::Length, "with a rest");
    assert_eq!(one(&[0, 0, 0, 0, 0, 1, 4, b'a']).unwrap_err(), MessageError::Short, "cut off");
    let many = head(Kind::Srv, 0x8180, 4097);
    assert_eq!(Answer::read(&query(Kind::Srv), &many).unwrap_err(), MessageError::TooMany);
}

#[test]
fn odd_bytes_in_a_name_stay_visible_and_apart() {
    let mut message = head(Kind::Srv, 0x8180, 1);
    record(&mut message, 33, &srv(b"a.b\n\\", 22));
    let answer = Answer::read(&query(Kind::Srv), &message).unwrap();
    let Data::Srv { target, .. } = &answer.records[0].data else { panic!("{answer:?}") };
    assert_eq!(target.to_string(), "a\\046b\\010\\092.example.com");
    assert!(!target.is_host());
}

#[test]
fn names_that_can_be_asked_for() {
    assert_eq!(name("_App._tcp.Example.COM."), name("_app._tcp.example.com"));
    for odd in ["", ".", "a..b", "a b", "ä.example", &"a".repeat(64), &"a.".repeat(128)] {
        assert_eq!(Name::parse(odd), None, "{odd}");
    }
}

#[test]
fn a_damaged_answer_is_read_or_refused() {
    let mut truncated = head(Kind::Srv, 0x8380, 9);
    truncated.extend_from_slice(&[0; 3]);
    let mut alias = head(Kind::Srv, 0x8180, 2);
    record(&mut alias, 5, &[5, b'a', b'l', b'i', b'a', b's', 0xc0, 22]);
    record(&mut alias, 16, b"\x03txt");
    let seeds = [good(), truncated, alias, head(Kind::Srv, 0x8183, 0)];
    let words = [
        &[0xc0, 12][..],
        &[0xc0, 22],
        &[0xc0, 57],
        &[0xff; 4],
        &[0, 33],
        &[0, 1],
        &[0x12, 0x34],
        &[0x81, 0x80],
    ];
    let fuzz = Fuzz::new("DNS answer").seeds(seeds).words(words);
    // Other tests of this program run at the same time, and their memory counts.
    fuzz.memory_bytes(256 << 20).run(|message| {
        let Ok(answer) = Answer::read(&query(Kind::Srv), message) else { return false };
        assert!(answer.rcode < 16);
        // The smallest record takes 11 bytes.
        assert!(answer.records.len() <= message.len() / 11);
        for record in &answer.records {
            check(&record.name);
            if let Data::Cname(name) | Data::Srv { target: name, .. } = &record.data {
                check(name);
            }
        }
        true
    });
}

/// Visible, and what can be asked for is the same when it is read again.
fn check(name: &Name) {
    assert!(name.as_str().len() <= 4 * 255 && name.to_string().chars().all(|c| c.is_ascii_graphic()));
    if name.is_host() {
        assert_eq!(Name::parse(name.as_str()).as_ref(), Some(name));
    }
}
