//! What `--keep` leaves behind: the record of it, what to try next, and how to end it.

use std::path::Path;

use cassy_testkit::{Doing, Failure, ProcessId, World};
use serde_json::{Value, json};

use crate::place;

const RECORD: &str = "processes.json";
const KEPT: &str = "kept";

/// Writes down what runs, so that it can be ended even when this process is killed.
pub(crate) fn record(world: &World) -> Result<(), Failure> {
    let processes = world.processes();
    let list: Vec<Value> = processes.iter().map(|id| json!({"pid": id.pid, "started": id.started})).collect();
    let path = world.path().join(RECORD);
    std::fs::write(&path, Value::Array(list).to_string()).doing(|| format!("write {}", path.display()))
}

/// Whether a run has left this directory on purpose.
pub(crate) fn is_kept(directory: &Path) -> bool {
    directory.join(KEPT).exists()
}

/// Leaves all running and says what can be done with it.
pub(crate) fn keep(world: World, cluster_id: &str, snapshot_id: &str) -> Result<(), Failure> {
    record(&world)?;
    let script = world.path().join("node.sh");
    std::fs::write(&script, node_script(&world)?).doing(|| format!("write {}", script.display()))?;
    let mark = world.path().join(KEPT);
    std::fs::write(&mark, "").doing(|| format!("write {}", mark.display()))?;
    print_what_to_try(&world, cluster_id, snapshot_id);
    world.leave_running();
    Ok(())
}

/// Ends and removes all that earlier runs have left.
pub(crate) fn stop_all() -> Result<(), Failure> {
    let left = place::abandoned()?;
    if left.is_empty() {
        println!("Nothing is left of earlier runs.");
    }
    for directory in left {
        remove(&directory)?;
        println!("Stopped and removed {}", directory.display());
    }
    Ok(())
}

/// Ends the processes of a directory that no living run holds, and removes it.
pub(crate) fn remove(directory: &Path) -> Result<(), Failure> {
    recorded(directory).into_iter().for_each(ProcessId::kill_tree);
    ProcessId::working_in(directory).into_iter().for_each(ProcessId::kill_tree);
    // What is being killed may still write while the tree is removed.
    let removed = std::fs::remove_dir_all(directory).or_else(|_| std::fs::remove_dir_all(directory));
    removed.doing(|| format!("remove {}", directory.display()))
}

fn recorded(directory: &Path) -> Vec<ProcessId> {
    let text = std::fs::read_to_string(directory.join(RECORD)).unwrap_or_default();
    let list: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
    let id = |value: &Value| {
        let pid = u32::try_from(value.get("pid")?.as_u64()?).ok()?;
        Some(ProcessId { pid, started: value.get("started")?.as_u64()? })
    };
    list.iter().filter_map(id).collect()
}

/// Stops, empties and starts the kept node, for those who want to play the story through by hand.
fn node_script(world: &World) -> Result<String, Failure> {
    let pid = world.node.process().map(cassy_testkit::Process::pid).unwrap_or_default();
    let directories: Vec<String> =
        world.node.own_directories().iter().map(|path| format!("'{}'", path.display())).collect();
    let node = world.path().join("node");
    Ok(format!(
        r#"#!/bin/sh
# Stops, empties and starts the Cassandra of the quickstart.
set -eu
cd '{node}'
[ -e pid ] || echo {pid} > pid
alive() {{ [ "$(readlink "/proc/$(cat pid)/cwd" 2>/dev/null)" = "$PWD" ]; }}
case "${{1:-}}" in
stop) if alive; then kill "$(cat pid)"; while alive; do sleep 0.2; done; fi ;;
wipe) if alive; then echo "stop it first" >&2; exit 1; fi
      for directory in {directories}; do find "$directory" -mindepth 1 -delete; done ;;
start) if alive; then echo "it runs" >&2; exit 1; fi
      setsid {command} >> cassandra.log 2>&1 < /dev/null &
      echo $! > pid; echo "starting; its log is $PWD/cassandra.log" ;;
*) echo "usage: $0 stop|wipe|start" >&2; exit 64 ;;
esac
"#,
        node = node.display(),
        directories = directories.join(" "),
        command = world.node.shell_command()?,
    ))
}

fn print_what_to_try(world: &World, cluster_id: &str, snapshot_id: &str) {
    let port = world.server.port();
    let call = |request: &str, method: &str| {
        println!("  grpcurl -plaintext -d '{request}' 127.0.0.1:{port} rpc.Cassy.{method}");
    };
    println!("\nEverything runs on, in {}", world.path().display());
    println!("  CQL at 127.0.0.1:{}; the server's log is server/server.log there", world.node.native_port());
    println!("\nWhat to try next (grpcurl: https://github.com/fullstorydev/grpcurl):");
    call("{\"cassandra_host\": \"127.0.0.1\"}", "RegisterCluster");
    call(&json!({"cluster_id": cluster_id}).to_string(), "ListClusters");
    call(&json!({"cluster_id": cluster_id, "backup_type": 2}).to_string(), "TakeBackup");
    call(&json!({"limit": 3, "cluster_id": cluster_id}).to_string(), "ListBackups");
    println!("\nA restore wants a node that is stopped and empty:");
    println!("  sh {0}/node.sh stop && sh {0}/node.sh wipe", world.path().display());
    let restore = json!({
        "snapshot_id": snapshot_id, "restore_type": 2, "cluster_id": cluster_id, "target_ips": ["127.0.0.1"],
    });
    call(&restore.to_string(), "RestoreBackup");
    call(&json!({"limit": 3, "cluster_id": cluster_id}).to_string(), "ListRestoreStatuses");
    println!("  sh {}/node.sh start", world.path().display());
    println!("\nTo stop and remove all of it:\n  ./quickstart --stop");
}
