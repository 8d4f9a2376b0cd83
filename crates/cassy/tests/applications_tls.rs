//! Applications that speak TLS: paused, guarded and let go by the real programs; and each way in which it goes wrong is
//! told before anybody is paused.

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use cassy_api::proto::BackupRequest;
use cassy_testkit::application::{Behaviour, FakeApplication};
use cassy_testkit::certificates::{Authority, Identity, Validity};
use cassy_testkit::dns::DnsServer;
use cassy_testkit::{CassyServer, Doing, Failure, Probe, RecordedNode, Recording, World, wait_for};
use tonic::{Code, Status};

const SERVICE: &str = "_app._tcp.shop.test";
const HOSTS: [&str; 2] = ["app1.shop.test", "app2.shop.test"];
const LONGEST: Duration = Duration::from_secs(4);
const LIMIT: Duration = Duration::from_secs(60);

/// One node under two instances, and an authority that the server believes.
struct Scene {
    world: World<RecordedNode>,
    cluster: String,
    dns: DnsServer,
    authority: Authority,
}

impl Scene {
    async fn start(change: impl FnOnce(&mut Vec<(&'static str, String)>)) -> Result<Self, Failure> {
        let (dns, authority) = (DnsServer::start().await?, Authority::new()?);
        let mut builder = World::recorded(&Recording::synthetic()?)?;
        let trusted = builder.path().join("authorities.pem");
        std::fs::write(&trusted, authority.pem()).doing(|| "write whom the server believes")?;
        let mut properties = vec![
            ("srv_service_url", SERVICE.to_owned()),
            ("srv_service_tls", "true".to_owned()),
            ("srv_service_tls_ca_path", trusted.display().to_string()),
            ("dns_server", dns.address().to_string()),
            ("max_pause_ms", LONGEST.as_millis().to_string()),
        ];
        change(&mut properties);
        for (key, value) in properties {
            builder = builder.property(key, value);
        }
        let world = builder.start().await?;
        let cluster = world.register().await?;
        Ok(Self { world, cluster, dns, authority })
    }

    fn signed(&self, name: &str, validity: Validity) -> Result<Identity, Failure> {
        self.authority.sign(&[name], validity)
    }

    fn name(&self, host: &str, application: &FakeApplication) {
        self.dns.forget(host);
        self.dns.srv(SERVICE, host, application.address().port());
        self.dns.address_of(host, application.address().ip());
    }

    /// Two instances, each with a certificate for its own name.
    async fn well(&self) -> Result<[Arc<FakeApplication>; 2], Failure> {
        let first = listening(Some(&self.signed(HOSTS[0], Validity::Good)?)).await?;
        let second = listening(Some(&self.signed(HOSTS[1], Validity::Good)?)).await?;
        self.are(&[&first, &second]);
        Ok([first, second])
    }

    /// These are the instances that DNS names.
    fn are(&self, applications: &[&FakeApplication]) {
        self.dns.forget(SERVICE);
        for (host, application) in HOSTS.into_iter().zip(applications) {
            self.name(host, application);
        }
    }

    async fn freeze(&self) -> Result<String, Status> {
        let request =
            BackupRequest { cluster_id: self.cluster.clone(), backup_type: 1, ..BackupRequest::default() };
        let mut client =
            self.world.server.client().map_err(|failure| Status::internal(failure.to_string()))?;
        Ok(client.take_backup(request).await?.into_inner().snapshot_id)
    }
}

async fn listening(identity: Option<&Identity>) -> Result<Arc<FakeApplication>, Failure> {
    let address = ([127, 0, 0, 1], 0).into();
    match identity {
        Some(identity) => FakeApplication::listen_by_tls(Behaviour::default(), address, identity).await,
        None => FakeApplication::listen(Behaviour::default(), address).await,
    }
}

async fn goes_on(application: &FakeApplication) -> Result<(), Failure> {
    wait_for("the application goes on", LIMIT, async || match application.is_paused() {
        false => Probe::Ready(()),
        true => Probe::NotYet("it is paused".to_owned()),
    })
    .await
}

#[tokio::test]
async fn a_cluster_wide_backup_pauses_by_tls_and_so_do_its_guards_let_go() -> Result<(), Failure> {
    let mut scene = Scene::start(|_| ()).await?;
    let [first, second] = scene.well().await?;
    let snapshot = scene.freeze().await.doing(|| "a backup of type 1")?;
    let (status, message) = scene.world.backup_outcome(&snapshot).await?;
    assert_eq!(status, cassy_api::proto::OperationStatus::Completed, "{message}");
    // The one beside the server and the one on the node were armed: both reached everybody.
    assert!(!message.contains("no guard"), "{message}");
    for application in [&first, &second] {
        assert_eq!((application.calls().pause, application.is_paused()), (1, false));
    }

    // The second is late with its Pause when the server and the guard beside it die.
    second.behave(|behaviour| behaviour.pauses_after = Duration::from_secs(1));
    let (mut client, closed) = (scene.world.server.client()?, second.calls().closed);
    let request =
        BackupRequest { cluster_id: scene.cluster.clone(), backup_type: 1, ..BackupRequest::default() };
    let asked = tokio::spawn(async move { client.take_backup(request).await.map(drop) });
    wait_for("the pause has begun", LIMIT, async || match (first.is_paused(), second.calls().pause) {
        (true, 2) => Probe::Ready(()),
        seen => Probe::NotYet(format!("{seen:?}")),
    })
    .await?;
    for process in scene.world.server.process().descendants() {
        if process.arguments().get(1).is_some_and(|word| word == "guard") {
            process.kill();
        }
    }
    scene.world.server.kill();
    asked.await.doing(|| "wait for the caller")?.expect_err("the server was killed");
    wait_for("the late one has closed its gate", LIMIT, async || match second.calls().closed {
        now if now > closed => Probe::Ready(()),
        now => Probe::NotYet(format!("{now} times")),
    })
    .await?;
    goes_on(&first).await?;
    goes_on(&second).await?;

    // What remains: nobody is left but the operator.
    let configuration = scene.world.server.configuration().display().to_string();
    first.gate().close();
    let done = unpause(&["--config", &configuration]).await?;
    assert!(done.status.success() && !first.is_paused(), "{}", said(&done));
    first.gate().close();
    let instance = format!("127.0.0.1:{}", first.address().port());
    let authorities = scene.world.path().join("authorities.pem").display().to_string();
    let named = [
        "--config",
        &configuration,
        "--instance",
        &instance,
        "--tls-ca",
        &authorities,
        "--tls-server-name",
        HOSTS[0],
    ];
    let done = unpause(&named).await?;
    assert!(done.status.success() && !first.is_paused(), "{}", said(&done));
    Ok(())
}

async fn unpause(arguments: &[&str]) -> Result<Output, Failure> {
    let mut command = Command::new(CassyServer::binary()?);
    command.arg("unpause").args(arguments);
    let done = tokio::task::spawn_blocking(move || command.output()).await.doing(|| "run it")?;
    done.doing(|| "run cassy unpause")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What the backup is refused with; nobody was asked to pause, and the history says the same.
async fn refused(
    scene: &Scene,
    bad: &FakeApplication,
    code: Code,
    why: &str,
    hint: &str,
) -> Result<(), Failure> {
    let good = listening(Some(&scene.signed(HOSTS[0], Validity::Good)?)).await?;
    scene.are(&[&good, bad]);
    let status = scene.freeze().await.expect_err("one cannot be spoken to");
    assert_eq!(status.code(), code, "{status:?}");
    for word in [HOSTS[1], &bad.address().to_string(), why, hint] {
        assert!(status.message().contains(word), "{word}: {}", status.message());
    }
    assert!(!status.message().contains(HOSTS[0]), "{}", status.message());
    let pauses = [good.calls().pause, bad.calls().pause];
    assert_eq!((pauses, good.is_paused(), bad.is_paused()), ([0, 0], false, false));
    Ok(())
}

#[tokio::test]
async fn who_is_not_believed_is_told_and_nobody_is_paused() -> Result<(), Failure> {
    let scene = Scene::start(|_| ()).await?;
    let stranger = Authority::new()?;
    let wrong = Code::FailedPrecondition;

    let bad = listening(Some(&stranger.sign(&[HOSTS[1]], Validity::Good)?)).await?;
    refused(
        &scene,
        &bad,
        wrong,
        "signed by nobody whom srv_service_tls_ca_path names",
        "Put the certificate",
    )
    .await?;
    let bad = listening(Some(&scene.signed("other.shop.test", Validity::Good)?)).await?;
    let why = "its certificate is not for app2.shop.test, but for other.shop.test";
    refused(&scene, &bad, wrong, why, "srv_service_tls_server_name").await?;
    let bad = listening(Some(&scene.signed(HOSTS[1], Validity::Over)?)).await?;
    refused(&scene, &bad, wrong, "its certificate expired ", "Renew").await?;
    let bad = listening(None).await?;
    refused(&scene, &bad, wrong, "what it answers is not TLS", "set srv_service_tls to false").await?;

    // And once more, that nothing else was in the way.
    let [first, second] = scene.well().await?;
    let snapshot = scene.freeze().await.doing(|| "a backup of type 1")?;
    scene.world.backup_outcome(&snapshot).await?;
    assert!(first.calls().pause == 1 && second.calls().pause == 1);
    Ok(())
}

#[tokio::test]
async fn an_instance_that_speaks_tls_is_told_where_plain_grpc_is_configured() -> Result<(), Failure> {
    let plain = |properties: &mut Vec<(&str, String)>| properties.retain(|(key, _)| !key.contains("_tls"));
    let scene = Scene::start(plain).await?;
    let good = listening(None).await?;
    let bad = listening(Some(&scene.signed(HOSTS[1], Validity::Good)?)).await?;
    scene.are(&[&good, &bad]);
    let status = scene.freeze().await.expect_err("one speaks TLS");
    for word in [HOSTS[1], "does not speak HTTP/2", "set srv_service_tls to true"] {
        assert!(status.message().contains(word), "{word}: {}", status.message());
    }
    assert_eq!((good.calls().pause, bad.calls().pause, good.is_paused()), (0, 0, false));
    Ok(())
}
