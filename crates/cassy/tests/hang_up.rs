//! Clients that hang up at random instants of a backup of type 1, in every way in which a connection can end: it changes
//! nothing for the backup, and nobody stays paused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cassy_api::proto::backup_listing_response::Entry;
use cassy_api::proto::cassy_client::CassyClient;
use cassy_api::proto::{BackupListingRequest, BackupRequest, OperationStatus};
use cassy_testkit::application::{Behaviour, FakeApplication};
use cassy_testkit::dns::DnsServer;
use cassy_testkit::{Doing, Failure, Probe, RecordedNode, Recording, Relay, Seeded, Way, World, wait_for};
use futures::future::try_join_all;
use tokio::time::{Instant, sleep};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

const SERVICE: &str = "_app._tcp.shop.test";
const CLIENTS: usize = 100;
/// So many ask for the same backup at once.
const TOGETHER: usize = 4;
const INSTANCES: usize = 3;
/// So long takes an instance until it is paused, so that a good part of a backup lies within a pause.
const PAUSES_AFTER: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(60);

/// How a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Leaves {
    /// It cancels its call and closes its connection.
    InOrder,
    /// Its connection is reset.
    CutOff,
    /// The server does not hear of it.
    Unheard,
}

const WAYS: [Leaves; 3] = [Leaves::InOrder, Leaves::CutOff, Leaves::Unheard];

/// When it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    BeforeThePause,
    InThePause,
    AfterThePause,
    /// Not at all: its answer came before.
    Answered,
}

/// Why a client was not served.
enum Refusal {
    Status(Status),
    Failure(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// One node under three instances.
struct Scene {
    world: World<RecordedNode>,
    cluster: String,
    instances: Vec<Arc<FakeApplication>>,
    /// Answers for as long as it lives.
    _dns: DnsServer,
}

impl Scene {
    async fn start() -> Result<Self, Failure> {
        let dns = DnsServer::start().await?;
        let mut instances = Vec::new();
        for number in 0..INSTANCES {
            let behaviour = Behaviour { pauses_after: PAUSES_AFTER, ..Behaviour::default() };
            let instance = FakeApplication::listen(behaviour, ([127, 0, 0, 1], 0).into()).await?;
            let host = format!("app{number}.shop.test");
            dns.srv(SERVICE, &host, instance.address().port());
            dns.address_of(&host, instance.address().ip());
            instances.push(instance);
        }
        let world = World::recorded(&Recording::synthetic()?)?
            .property("srv_service_url", SERVICE)
            .property("dns_server", dns.address().to_string());
        let world = world.start().await?;
        let cluster = world.register().await?;
        Ok(Self { world, cluster, instances, _dns: dns })
    }

    fn paused(&self) -> usize {
        self.instances.iter().filter(|instance| instance.is_paused()).count()
    }

    /// Pauses that the first instance was asked for, and how often it was let go.
    fn asked(&self) -> (u32, u32) {
        let calls = self.instances[0].calls();
        (calls.pause, calls.unpause)
    }

    /// As many clients ask for one backup, and go at these instants, unless the answer comes before.
    ///
    /// The backup of some who went early may be in no list yet, and refuse the next one: then all ask again.
    async fn hung_up(&self, key: &str, clients: &[(Leaves, Duration)]) -> Result<Vec<Phase>, Failure> {
        let asked = wait_for("a backup is taken up", LIMIT, async || {
            let tried = clients.iter().map(|(leaves, after)| self.tried(key, *leaves, *after));
            match try_join_all(tried).await {
                Ok(phases) => Probe::Ready(phases),
                Err(Refusal::Status(status)) if status.message().contains("is at work for the job ") => {
                    Probe::NotYet(status.to_string())
                }
                Err(Refusal::Status(status)) => {
                    Probe::Broken(Failure::new(format!("a client that waits was told: {status}")))
                }
                Err(Refusal::Failure(failure)) => Probe::Broken(failure),
            }
        });
        let phases = asked.await?;
        self.ended().await?;
        Ok(phases)
    }

    /// One of them.
    async fn tried(&self, key: &str, leaves: Leaves, after: Duration) -> Result<Phase, Refusal> {
        let relay = Relay::to(self.world.server.port()).await?;
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", relay.port()));
        let channel = endpoint.doing(|| "make an address")?.connect().await.doing(|| "connect")?;
        let mut client = CassyClient::new(channel);
        let (paused, unpaused) = self.asked();
        let request = BackupRequest {
            cluster_id: self.cluster.clone(),
            backup_type: 1,
            idempotency_key: Some(key.to_owned()),
            ..BackupRequest::default()
        };
        let mut call = Box::pin(client.take_backup(request));
        let answer = tokio::select! {
            answer = &mut call => Some(answer),
            () = sleep(after) => None,
        };
        if let Some(answer) = answer {
            return answer.map(|_| Phase::Answered).map_err(Refusal::Status);
        }
        match leaves {
            Leaves::InOrder => {}
            Leaves::CutOff => relay.set(Way::Cut),
            Leaves::Unheard => relay.set(Way::HalfOpen),
        }
        let phase = match self.asked() {
            (now, _) if now == paused => Phase::BeforeThePause,
            (_, now) if now == unpaused => Phase::InThePause,
            _ => Phase::AfterThePause,
        };
        drop(call);
        drop(client);
        // The relay keeps its side of the connection up until the backup has ended.
        if phase != Phase::BeforeThePause {
            self.ended().await?;
        }
        Ok(phase)
    }

    /// All backups, when each has ended and nobody is paused.
    async fn ended(&self) -> Result<Vec<Entry>, Failure> {
        let mut client = self.world.server.client()?;
        let request =
            BackupListingRequest { cluster_id: self.cluster.clone(), ..BackupListingRequest::default() };
        wait_for("each backup has ended, and nobody is paused", LIMIT, async || {
            let rows = match client.list_backups(request.clone()).await {
                Ok(answer) => answer.into_inner().entries,
                Err(status) if status.code() == Code::Unavailable => {
                    return Probe::NotYet(status.to_string());
                }
                Err(status) => return Probe::Broken(Failure::new(status.to_string())),
            };
            let is_under_way =
                |row: &&Entry| !matches!(row.status(), OperationStatus::Completed | OperationStatus::Failed);
            match (rows.iter().filter(is_under_way).count(), self.paused()) {
                (0, 0) => Probe::Ready(rows),
                (jobs, paused) => Probe::NotYet(format!("{jobs} are under way, {paused} are paused")),
            }
        })
        .await
    }
}

#[tokio::test]
async fn a_hundred_clients_hang_up_and_nobody_stays_paused() -> Result<(), Failure> {
    let mut seeded = Seeded::new()?;
    let scene = Scene::start().await?;
    let waits = [(Leaves::InOrder, LIMIT)];
    assert_eq!(scene.hung_up("first", &waits).await?, [Phase::Answered]);
    // The first one brings the agent to the node; this is how long one takes to its answer.
    let mut whole = LIMIT;
    for key in ["second", "third"] {
        let begun = Instant::now();
        assert_eq!(scene.hung_up(key, &waits).await?, [Phase::Answered]);
        whole = whole.min(begun.elapsed());
    }

    let begun = Instant::now();
    let mut counts: BTreeMap<(Phase, Leaves), usize> = BTreeMap::new();
    let (mut rounds, mut gone) = (0, 0);
    while gone < CLIENTS {
        let ways = WAYS.iter().cycle().skip(rounds * TOGETHER).take(TOGETHER);
        let clients: Vec<_> = ways.map(|leaves| (*leaves, seeded.within(whole))).collect();
        let phases = scene.hung_up(&format!("round {rounds}"), &clients).await?;
        for ((leaves, _), phase) in clients.into_iter().zip(phases) {
            *counts.entry((phase, leaves)).or_default() += 1;
            gone += usize::from(phase != Phase::Answered);
        }
        rounds += 1;
        assert!(rounds < CLIENTS, "most are gone before they are answered: {counts:?}");
    }

    // One that waits for its answer comes after all that the others have begun.
    assert_eq!(scene.hung_up("last", &waits).await?, [Phase::Answered]);
    let rows = scene.ended().await?;
    let calls: Vec<_> = scene.instances.iter().map(|instance| instance.calls()).collect();
    eprintln!(
        "{gone} clients hung up in {:?}, a backup in {whole:?}; {} backups; who left when and how: {counts:?}",
        begun.elapsed(),
        rows.len()
    );
    let failed: Vec<_> = rows.iter().filter(|row| row.status() != OperationStatus::Completed).collect();
    assert!(failed.is_empty(), "a client that hangs up changes nothing: {failed:#?}");
    let left = |wanted: Phase| -> usize {
        counts.iter().filter(|((phase, _), _)| *phase == wanted).map(|(_, count)| count).sum()
    };
    assert!(left(Phase::InThePause) >= 5, "some left in the pause: {counts:?}");
    // A round whose clients all went before their requests were read may have begun nothing.
    let most = rounds + 4;
    assert!(
        (most - left(Phase::BeforeThePause) / TOGETHER..=most).contains(&rows.len()),
        "{} backups, {counts:?}",
        rows.len()
    );
    assert!(gone >= CLIENTS && counts.values().sum::<usize>() == rounds * TOGETHER);
    for calls in calls {
        let backups = u32::try_from(rows.len()).expect("they are not that many");
        assert_eq!((calls.pause, calls.closed), (backups, backups), "each backup paused everybody once");
        assert!(calls.unpause >= backups, "{calls:?}");
    }
    Ok(())
}
