//! Prints everything that a node says over JMX: `inspect [HOST [PORT]]`. With `--snapshot` it also takes a snapshot of
//! all keyspaces, shows it, and clears it.
#![allow(clippy::print_stdout, reason = "that is what it is for")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cassy_cassandra::{Deadlines, Keyspaces, NodeError, NodeSession, SnapshotTag, TcpDialer};
use uuid::Uuid;

const MINUTES: Duration = Duration::from_mins(5);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (flags, words): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|word| word.starts_with("--"));
    let mut words = words.into_iter();
    let host = words.next().unwrap_or_else(|| "127.0.0.1".to_owned());
    let port = words.next().and_then(|port| port.parse().ok()).unwrap_or(7199);
    if let Err(error) = inspect(&host, port, flags.iter().any(|flag| flag == "--snapshot")).await {
        println!("error: {}", chain(&error));
        println!("class: {:?}", error.class());
        if let Some(hint) = error.hint() {
            println!("hint: {hint}");
        }
    }
}

fn chain(error: &NodeError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

async fn inspect(host: &str, port: u16, snapshot: bool) -> Result<(), NodeError> {
    let start = Instant::now();
    let mut node = NodeSession::connect(Arc::new(TcpDialer), host, port, Deadlines::default()).await?;
    println!("connected to {} in {:?}", node.node(), start.elapsed());
    println!("release version   {}", node.release_version());
    println!("cluster           {}", node.cluster_name().await?);
    println!("partitioner       {}", node.partitioner().await?);
    println!("operation mode    {:?}", node.operation_mode().await?);
    println!("host id           {}", node.local_host_id().await?);
    println!("live              {:?}", node.live_nodes().await?);
    println!("unreachable       {:?}", node.unreachable_nodes().await?);
    println!("joining           {:?}", node.joining_nodes().await?);
    println!("leaving           {:?}", node.leaving_nodes().await?);
    println!("moving            {:?}", node.moving_nodes().await?);
    println!("undelivered       {:?}", node.undelivered().await?);
    for (address, id) in node.endpoint_to_host_id().await? {
        let (datacenter, rack) = (node.datacenter(address).await?, node.rack(address).await?);
        println!(
            "endpoint          {address} {id} {datacenter} {rack} tokens {:?}",
            node.tokens(address).await?
        );
    }
    println!("data directories  {:?}", node.data_file_locations().await?);
    println!("commit log        {:?}", node.commit_log_location().await?);
    println!("saved caches      {:?}", node.saved_caches_location().await?);
    println!("incremental       {}", node.incremental_backups_enabled().await?);
    let keyspaces = node.keyspaces().await?;
    println!("keyspaces         {keyspaces:?}");
    let tables = node.tables().await?;
    println!("tables            {}: {:?} ..", tables.len(), tables.iter().take(3).collect::<Vec<_>>());
    println!("all read after    {:?}", start.elapsed());
    if let Some(keyspaces) = Keyspaces::new(keyspaces).filter(|_| snapshot) {
        take_and_clear(&mut node, &keyspaces).await?;
    }
    node.close().await
}

async fn take_and_clear(node: &mut NodeSession, keyspaces: &Keyspaces) -> Result<(), NodeError> {
    let tag = SnapshotTag::of(Uuid::now_v7(), 1);
    let start = Instant::now();
    node.flush(keyspaces, MINUTES).await?;
    println!("flushed           in {:?}", start.elapsed());
    let start = Instant::now();
    node.take_snapshot(tag, keyspaces, MINUTES).await?;
    println!("snapshot {tag} taken in {:?}", start.elapsed());
    let again = node.take_snapshot(tag, keyspaces, MINUTES).await;
    println!("once more         {}", again.as_ref().map_or_else(chain, |()| "no error".to_owned()));
    node.clear_snapshot(tag, keyspaces, MINUTES).await?;
    Ok(())
}
