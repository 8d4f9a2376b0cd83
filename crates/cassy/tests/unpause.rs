//! `cassy unpause`: who is paused goes on, also one whose record is gone because it is paused.

use std::process::{Command, Output};

use cassy_testkit::application::{Behaviour, FakeApplication};
use cassy_testkit::dns::DnsServer;
use cassy_testkit::{CassyServer, Doing, Failure, Node, Recording, World};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

const SERVICE: &str = "_app._tcp.shop.test";

#[tokio::test]
async fn who_is_paused_goes_on_with_or_without_a_record() -> Result<(), Failure> {
    let dns = DnsServer::start().await?;
    let (named, lost) = (listening().await?, listening().await?);
    dns.srv(SERVICE, "app1.shop.test", named.address().port());
    dns.address_of("app1.shop.test", named.address().ip());
    let world = World::recorded(&Recording::synthetic()?)?
        .property("srv_service_url", SERVICE)
        .property("dns_server", dns.address().to_string())
        .property("max_pause_ms", "1000");
    let mut world = world.start().await?;
    world.server.stop().await?;
    let instance = format!(r#"[{{"host": "app2.shop.test", "address": "{}"}}]"#, lost.address());
    let options = SqliteConnectOptions::new().filename(world.database()).foreign_keys(false);
    let mut database = options.connect().await.doing(|| "open the database")?;
    sqlx::query("INSERT INTO pause_intent VALUES ('intent', 'job', $1, 2, 1, 0)")
        .bind(instance)
        .execute(&mut database)
        .await
        .doing(|| "store an intent")?;
    database.close().await.doing(|| "close the database")?;

    for application in [&named, &lost] {
        application.gate().close();
    }
    let done = unpause(&world).await?;
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("app1.shop.test") && said.contains("app2.shop.test"), "{said}");
    assert!(!named.is_paused() && !lost.is_paused());

    // Whoever else the record names is not known.
    lost.gate().close();
    dns.forget(SERVICE);
    let done = unpause(&world).await?;
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.code() == Some(1) && said.contains("whether there are others is not known"),
        "{said}"
    );
    assert!(!lost.is_paused());
    Ok(())
}

async fn unpause<N: Node>(world: &World<N>) -> Result<Output, Failure> {
    let mut command = Command::new(CassyServer::binary()?);
    command.arg("unpause").arg("--config").arg(world.server.configuration());
    let done = tokio::task::spawn_blocking(move || command.output()).await.doing(|| "run it")?;
    done.doing(|| "run cassy unpause")
}

async fn listening() -> Result<std::sync::Arc<FakeApplication>, Failure> {
    FakeApplication::listen(Behaviour::default(), ([127, 0, 0, 1], 0).into()).await
}
