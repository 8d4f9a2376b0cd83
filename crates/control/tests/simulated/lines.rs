//! The network between hosts and instances: latency, and partitions, behind which TCP keeps what it has and sends it
//! again, until its host forgets it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cassy_agent_protocol::Instance;
use cassy_pause::{ByteStream, Dial};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex, split};
use tokio::time::{sleep, timeout};
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;

use crate::faults::Kind;
use crate::world::{Host, World};

const PIPE_BYTES: usize = 64 << 10;
/// As `TcpDial` sets it: so long the host's kernel tries to deliver.
const USER_TIMEOUT: Duration = Duration::from_secs(1);

/// How a host reaches instances.
pub(crate) struct Lines {
    pub(crate) world: Arc<World>,
    pub(crate) host: Host,
}

#[async_trait]
impl Dial for Lines {
    async fn dial(&self, instance: &Instance) -> io::Result<Box<dyn ByteStream>> {
        let (world, host, instance) = (Arc::clone(&self.world), self.host, instance.clone());
        self.world.here(async move { world.connect(host, &instance).await }).await
    }
}

impl World {
    async fn connect(self: &Arc<Self>, host: Host, instance: &Instance) -> io::Result<Box<dyn ByteStream>> {
        let found = self.lock().apps.iter().position(|app| app.instance == *instance);
        let index = found.ok_or(io::ErrorKind::ConnectionRefused)?;
        let line = format!("line {host:?} {index}");
        let latency = Duration::from_millis(self.dice(&line).between(1, 12));
        sleep(latency).await;
        self.until_reachable(host, index, &line).await;
        let process = Arc::clone(&self.lock().apps[index].process);
        let far = process.connect()?;
        let (near, own) = duplex(PIPE_BYTES);
        let ended = CancellationToken::new();
        let (reads, writes) = split(own);
        let (far_reads, far_writes) = split(far);
        let broken = CancellationToken::new();
        let carrier = Carrier { world: Arc::clone(self), host, index, latency, line, ended, broken };
        let guard = carrier.ended.clone().drop_guard();
        self.handle.spawn(carrier.clone().carry(reads, far_writes, USER_TIMEOUT));
        self.handle.spawn(carrier.carry(far_reads, writes, Duration::MAX));
        Ok(Box::new(InspectReader::new(near, move |_| {
            let _held = &guard;
        })))
    }

    /// What has arrived at a process that is stopped waits in its kernel, also when the sender is gone; then each connection
    /// has its turn.
    async fn until_thawed(&self, index: usize, line: &str) {
        if !self.is_frozen(index) {
            return;
        }
        self.fired(Kind::InstanceFrozen);
        loop {
            let changed = self.changed.notified();
            if !self.is_frozen(index) {
                break;
            }
            changed.await;
        }
        self.delay(line, 0, 60).await;
    }

    fn is_frozen(&self, index: usize) -> bool {
        self.lock().apps[index].faults.contains(&Kind::InstanceFrozen)
    }

    fn is_cut_off(&self, host: Host, index: usize) -> bool {
        self.lock().cut_off.contains(&(host, index))
    }

    /// Behind a partition, everything is sent again later and later.
    async fn until_reachable(&self, host: Host, index: usize, line: &str) {
        if !self.is_cut_off(host, index) {
            return;
        }
        self.fired(Kind::Partition);
        loop {
            let changed = self.changed.notified();
            if !self.is_cut_off(host, index) {
                break;
            }
            changed.await;
        }
        self.delay(line, 0, 2000).await;
    }
}

/// One direction of a connection.
#[derive(Clone)]
struct Carrier {
    world: Arc<World>,
    host: Host,
    index: usize,
    latency: Duration,
    line: String,
    /// The host has closed its end: what has not arrived is forgotten.
    ended: CancellationToken,
    /// The host's kernel has given it up.
    broken: CancellationToken,
}

impl Carrier {
    async fn carry(self, from: impl AsyncRead + Unpin, to: impl AsyncWrite + Unpin, longest: Duration) {
        self.broken.run_until_cancelled(self.work(from, to, longest)).await;
    }

    async fn work(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        longest: Duration,
    ) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            sleep(self.latency).await;
            let reachable = self.world.until_reachable(self.host, self.index, &self.line);
            let delivered = self.ended.run_until_cancelled(timeout(longest, reachable)).await;
            if !matches!(delivered, Some(Ok(()))) {
                return self.broken.cancel();
            }
            self.world.until_thawed(self.index, &self.line).await;
            if to.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
        // The other side may be gone.
        let _ = to.shutdown().await;
    }
}
