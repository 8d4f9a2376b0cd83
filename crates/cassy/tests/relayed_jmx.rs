//! A node as it comes: JMX on its own loopback only, an sshd that forwards nothing. The server knows it as 127.0.0.2,
//! where nobody but sshd listens, so all that it hears of Cassandra comes through agents.

use std::time::Duration;

use cassy_api::proto::{ClusterRegistrationRequest, ClusterRegistrationResponse};
use cassy_testkit::{
    Doing, Failure, Lifetime, Order, Probe, RecordedNode, Recording, Sshd, World, oracle, wait_for,
};
use tonic::{Code, Status};

/// Where the server looks for the node.
const ADDRESS: &str = "127.0.0.2";
const OTHER_ID: &str = "6a5c7f0e-0000-4000-8000-00000000beef";
const SSTABLES: usize = 20;

async fn world() -> Result<World<RecordedNode>, Failure> {
    let mut world = World::recorded(&Recording::with_many_files(1, SSTABLES, 20_000)?)?.start().await?;
    let lines = format!("ListenAddress {ADDRESS}");
    let sshd = Sshd::start_with(world.path().join("sshd-of-the-node"), &lines, Lifetime::Owned).await?;
    let settings = world.server.settings_mut();
    settings.set("ssh_port", sshd.port().to_string());
    settings.set("ssh_private_key_path", sshd.client_key().display().to_string());
    world.sshd = sshd;
    world.server.start_again().await?;
    ring(&world, &[(ADDRESS, None)])?;
    let direct = tokio::net::TcpStream::connect((ADDRESS, world.node.jmx_port())).await;
    assert!(direct.is_err(), "there is no direct way");
    let configuration = std::fs::read_to_string(world.path().join("sshd-of-the-node/sshd_config"));
    assert!(configuration.doing(|| "read sshd_config")?.contains("AllowTcpForwarding no"));
    Ok(world)
}

/// What the node says of the ring.
fn ring(world: &World<RecordedNode>, nodes: &[(&str, Option<&str>)]) -> Result<(), Failure> {
    let node = |(address, id): &(&str, Option<&str>)| ((*address).to_owned(), id.map(str::to_owned));
    let order = Order::Ring(nodes.iter().map(node).collect());
    world.node.order("EndpointToHostId", &order)?;
    world.node.order("LiveNodes", &order)
}

async fn register(world: &World<RecordedNode>) -> Result<ClusterRegistrationResponse, Status> {
    let request = ClusterRegistrationRequest { cassandra_host: ADDRESS.to_owned() };
    let mut client = world.server.client().map_err(|failure| Status::internal(failure.to_string()))?;
    client.register_cluster(request).await.map(tonic::Response::into_inner)
}

fn logins(world: &World<RecordedNode>) -> usize {
    world.sshd.log().matches("Accepted publickey").count()
}

#[tokio::test]
async fn a_node_with_jmx_on_its_loopback_only_is_registered_backed_up_and_restored() -> Result<(), Failure> {
    let mut world = world().await?;
    let directories = world.node.data_directories();
    let before = oracle::placed(&directories)?;
    let cluster = register(&world).await.doing(|| "register")?;
    assert_eq!(cluster.target_ips, [ADDRESS]);
    // The sessions of a registration: for JMX, and to meet the node.
    wait_for("the node was met", Duration::from_secs(60), async || match logins(&world) {
        2.. => Probe::Ready(()),
        logins => Probe::NotYet(format!("{logins} logins")),
    })
    .await?;
    world.sshd.sessions_ended().await?;
    assert_eq!(logins(&world), 2);

    let backup = world.back_up(&cluster.cluster_id).await?;
    world.sshd.sessions_ended().await?;
    // One to ask for the ring, one for all of the job.
    assert_eq!(logins(&world), 4, "{}", world.sshd.log());

    world.node.stop().await?;
    world.node.wipe()?;
    world.restore(&cluster.cluster_id, &backup).await?;
    assert_eq!(oracle::differences(&before, &oracle::placed(&directories)?), Vec::<String>::new());
    world.node.start().await?;
    world.back_up(&cluster.cluster_id).await?;
    Ok(())
}

#[tokio::test]
async fn another_node_that_answers_on_a_shared_loopback_is_refused_by_name() -> Result<(), Failure> {
    let world = world().await?;
    ring(&world, &[(ADDRESS, Some(OTHER_ID)), ("127.0.0.1", None)])?;
    let refusal = register(&world).await.expect_err("it is another node");
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
    let text = refusal.message();
    assert!(text.contains("127.0.0.2: another node of the ring answers there by JMX, 127.0.0.1"), "{text}");
    // An address that the ring does not know, for clients only, may be asked.
    ring(&world, &[("127.0.0.9", None)])?;
    assert_eq!(register(&world).await.doing(|| "register")?.target_ips, ["127.0.0.9"]);
    Ok(())
}

#[tokio::test]
async fn when_no_way_leads_to_cassandra_both_are_told_with_what_to_do() -> Result<(), Failure> {
    let mut world = world().await?;
    world.node.stop().await?;
    let refusal = register(&world).await.expect_err("Cassandra is down");
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal}");
    let port = world.node.jmx_port();
    let nobody = format!("nothing listens on port {port} of the node's own loopback");
    for part in ["neither directly (", "Connection refused", "nor through an agent on the node (", &nobody] {
        assert!(refusal.message().contains(part), "{part} in {refusal}");
    }
    world.sshd.refuse_logins()?;
    let refusal = register(&world).await.expect_err("and nobody is let in");
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal}");
    for part in ["neither directly (", "Connection refused", "does not accept user", "authorized_keys"] {
        assert!(refusal.message().contains(part), "{part} in {refusal}");
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_that_dies_while_it_relays_ends_the_session_at_once_and_the_next_one_works()
-> Result<(), Failure> {
    let world = world().await?;
    world.node.order("Keyspaces", &Order::Hang)?;
    let lost = async {
        let agent = wait_for("an agent relays", Duration::from_secs(60), async || {
            match (world.sshd.agents().first().copied(), world.node.log().contains("Keyspaces")) {
                (Some(agent), true) => Probe::Ready(agent),
                (agent, _) => Probe::NotYet(format!("{agent:?}; {}", world.node.log())),
            }
        })
        .await?;
        agent.kill();
        Ok::<_, Failure>(())
    };
    let (refusal, lost) = tokio::join!(register(&world), lost);
    lost?;
    let refusal = refusal.expect_err("the agent is dead");
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal}");
    assert!(refusal.message().contains("the agent is gone"), "{refusal}");
    world.node.lift("Keyspaces")?;
    register(&world).await.doing(|| "register")?;
    Ok(())
}
