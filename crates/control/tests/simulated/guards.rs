//! Guards: the real loop, as a process of its own: a task of the world that hangs on a pipe.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cassy_agent_protocol::{GuardOrder, Instance};
use cassy_pause::{PauseClient, Relief, stand_guard};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::lines::Lines;
use crate::world::{Host, Mark, PauseRecord, World};

const PIPE_BYTES: usize = 64 << 10;
const START_LIMIT: Duration = Duration::from_secs(5);
const END_LIMIT: Duration = Duration::from_secs(5);

/// Who can end a pause, as far as no fault has ended it.
pub(crate) struct Guardian {
    pub(crate) host: Host,
    pub(crate) deadline: u64,
    pub(crate) killed: bool,
}

/// The end of the pipe that the other side holds.
pub(crate) struct Pipe {
    input: DuplexStream,
    /// Whether it was let go, and did nothing.
    ended: oneshot::Receiver<bool>,
    pub(crate) unreachable: Vec<Instance>,
}

#[derive(Deserialize)]
struct Ready {
    unreachable: Vec<Instance>,
}

impl Pipe {
    /// In the world: the process; answers its pipe when it is armed, and how to kill it.
    pub(crate) async fn open(
        world: &Arc<World>,
        host: Host,
        order: &GuardOrder,
    ) -> io::Result<(Self, AbortHandle)> {
        world.delay("guard starts", 5, 40).await;
        let (mut input, theirs) = duplex(PIPE_BYTES);
        let (output, own) = duplex(PIPE_BYTES);
        let (ending, ended) = oneshot::channel::<bool>();
        let (inside, job) = (Arc::clone(world), world.job(&order.job_id));
        let process = world.handle.spawn(async move {
            let client = PauseClient::new(Lines { world: Arc::clone(&inside), host });
            let say = |_: &str| inside.say(format!("guard at {host:?} unpauses for {job}"));
            let relief =
                stand_guard(BufReader::new(theirs), output, &client, std::future::pending(), say).await;
            if let Ok(Relief::Unpaused { left, .. }) = &relief {
                inside.say(format!("guard at {host:?} for {job} has ended, {} left", left.len()));
            }
            // Nobody may wait for it.
            let _ = ending.send(matches!(relief, Ok(Relief::Released)));
        });
        let mut line = serde_json::to_vec(order).unwrap();
        line.push(b'\n');
        input.write_all(&line).await?;
        let mut answer = String::new();
        timeout(START_LIMIT, BufReader::new(own).read_line(&mut answer)).await??;
        let ready = answer.strip_prefix("ready ").ok_or(io::ErrorKind::BrokenPipe)?;
        let ready: Ready = serde_json::from_str(ready)?;
        let pipe = Self { input, ended, unreachable: ready.unreachable };
        Ok((pipe, process.abort_handle()))
    }

    /// It ends without doing anything; an error when it did something, or is gone.
    pub(crate) async fn release(mut self) -> Result<(), String> {
        // It may be gone.
        let _ = self.input.write_all(b"done\n").await;
        drop(self.input);
        match timeout(END_LIMIT, self.ended).await {
            Ok(Ok(true)) => Ok(()),
            _ => Err("it was not let go".to_owned()),
        }
    }
}

impl World {
    /// The server begins a pause; it is its own first guardian.
    pub(crate) fn pause_begins(&self, order: &GuardOrder) {
        self.mark(Mark::Guarded);
        let began = self.now();
        let deadline = began + order.deadline_ms;
        let server = Guardian { host: Host::Server, deadline, killed: false };
        let beside = Guardian { host: Host::Server, deadline, killed: false };
        let (job_id, instances) = (order.job_id.clone(), order.instances.clone());
        let guardians = vec![server, beside];
        self.lock().pauses.push(PauseRecord { job_id, instances, began, guardians });
    }

    /// Another guard is armed, on a node.
    pub(crate) fn armed_on(&self, node: usize, order: &GuardOrder) {
        let deadline = self.now() + order.deadline_ms;
        let guardian = Guardian { host: Host::Node(node), deadline, killed: false };
        if let Some(pause) = self.lock().pauses.last_mut() {
            pause.guardians.push(guardian);
        }
    }
}
