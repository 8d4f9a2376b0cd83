//! ScalarDB Server, a real application that others have written, under a backup of type 1. It binds all interfaces, so
//! all of it happens in a network namespace, where nothing is but a loopback. With `./test --all` only.
#![allow(clippy::print_stdout, reason = "says why it is left out")]

use std::ffi::OsString;
use std::time::Duration;

use cassy_agent_protocol::Instance;
use cassy_api::proto::{BackupListingRequest, BackupRequest, OperationStatus};
use cassy_pause::{PauseClient, TcpDial, Unpaused};
use cassy_testkit::dns::DnsServer;
use cassy_testkit::peers::Peers;
use cassy_testkit::{Doing, Failure, Launch, Lifetime, Probe, Process, Recording, World, wait_for};

const SERVICE: &str = "_scalardb._tcp.shop.test";
const HOST: &str = "scalardb.shop.test";
const PORT: u16 = 60051;
const WITHIN: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(400);

#[tokio::test]
async fn scalardb_server_is_paused_for_a_backup() -> Result<(), Failure> {
    if std::env::var_os("CASSY_TEST_ALL").is_none() {
        println!("left out: CASSY_TEST_ALL is not set");
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        println!("left out: only root makes network namespaces");
        return Ok(());
    }
    // Within, nothing can be fetched any more.
    let Some(_fetched) = Peers::scalardb_server().await else { return Ok(()) };
    let directory = tempfile::tempdir().doing(|| "make a directory")?;
    let own = std::env::current_exe().doing(|| "find this executable")?;
    let mut arguments: Vec<OsString> =
        ["--net", "--", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""].map(OsString::from).into();
    arguments.push(own.into());
    arguments.extend(["--ignored", "--exact", "--nocapture", "in_a_namespace"].map(OsString::from));
    let mut within = Process::start(&Launch {
        name: "this test in a network namespace".to_owned(),
        program: "unshare".into(),
        arguments,
        directory: directory.path().to_owned(),
        environment: Default::default(),
        log: directory.path().join("within.log"),
        lifetime: Lifetime::Owned,
    })?;
    let status = wait_for("the test in the namespace has ended", LIMIT, async || match within.ended() {
        Some(status) => Probe::Ready(status),
        None => Probe::NotYet(within.log_tail()),
    })
    .await?;
    println!("{}", within.log());
    assert!(status.success() && within.log().contains("1 passed"), "{status}: {}", within.log());
    Ok(())
}

#[tokio::test]
#[ignore = "the test above runs it, in a network namespace"]
async fn in_a_namespace() -> Result<(), Failure> {
    let devices = std::fs::read_to_string("/proc/self/net/dev").doing(|| "list the network devices")?;
    let outside = devices.lines().skip(2).filter(|line| !line.trim_start().starts_with("lo:")).count();
    assert_eq!(outside, 0, "it would listen on all of these:\n{devices}");
    let Some(peers) = Peers::scalardb_server().await else { panic!("it was there outside") };
    let directory = tempfile::tempdir().doing(|| "make a directory")?;
    let server = peers.scalardb(directory.path(), PORT).await?;

    let client = PauseClient::new(TcpDial);
    let instances = [Instance { host: HOST.to_owned(), address: server.address() }];
    for _ in 0..3 {
        let pausing = client.pause(&instances, WITHIN).await;
        assert!(pausing.failures().is_empty(), "{:?}\n{}", pausing.failures(), server.log());
        assert!(pausing.check(WITHIN).await.is_empty());
        let unpaused = pausing.unpause(WITHIN).await;
        assert!(matches!(unpaused[..], [Ok(Unpaused::Acknowledged)]), "{unpaused:?}");
        let after = pausing.check(WITHIN).await;
        assert_eq!(after.len(), 1, "it goes on");
        assert!(after[0].to_string().contains("is not paused"), "{}", after[0]);
    }

    let dns = DnsServer::start().await?;
    dns.srv(SERVICE, HOST, PORT);
    dns.address_of(HOST, server.address().ip());
    let world = World::recorded(&Recording::synthetic()?)?
        .property("srv_service_url", SERVICE)
        .property("dns_server", dns.address().to_string());
    let world = world.start().await?;
    let cluster_id = world.register().await?;
    let request =
        BackupRequest { cluster_id: cluster_id.clone(), backup_type: 1, ..BackupRequest::default() };
    let mut asked = world.server.client()?;
    let backup = asked.take_backup(request).await.doing(|| "a backup of type 1")?.into_inner();
    let (status, message) = world.backup_outcome(&backup.snapshot_id).await?;
    assert_eq!(status, OperationStatus::Completed, "{message}");
    let request = BackupListingRequest { cluster_id, ..BackupListingRequest::default() };
    let rows = asked.list_backups(request).await.doing(|| "ListBackups")?.into_inner().entries;
    let pause = rows[0].pause.as_ref().expect("it says how long");
    println!("paused from {} to {}: {:?}", pause.started_at, pause.ended_at, pause.instances);
    assert_eq!(pause.instances.len(), 1);
    // And it goes on: a Pause of our own is answered, and undone.
    let pausing = client.pause(&instances, WITHIN).await;
    assert!(pausing.failures().is_empty() && pausing.unpause(WITHIN).await.iter().all(Result::is_ok));
    Ok(())
}
