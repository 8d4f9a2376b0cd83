//! What the application is there for: it counts. Each line of a client is a request, answered by the next number.
//!
//! Its own protocol does not matter for the pause; the one line that does is the first one of `answer`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::gate::Gate;

/// See the module.
pub struct Counter {
    gate: Arc<Gate>,
    /// Stands for the tables of an application, which must not change while it is paused.
    value: AtomicU64,
}

impl Counter {
    /// Starts at zero.
    pub fn new(gate: Arc<Gate>) -> Arc<Self> {
        Arc::new(Self { gate, value: AtomicU64::new(0) })
    }

    /// Takes connections until the listener fails.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        loop {
            let (client, _) = listener.accept().await?;
            let counter = Arc::clone(&self);
            // A client that breaks off harms nobody else.
            tokio::spawn(async move { counter.converse(client).await.ok() });
        }
    }

    async fn converse(&self, client: TcpStream) -> io::Result<()> {
        let (read, mut write) = client.into_split();
        let mut lines = BufReader::new(read).lines();
        while lines.next_line().await?.is_some() {
            let number = self.answer().await;
            write.write_all(format!("{number}\n").as_bytes()).await?;
        }
        Ok(())
    }

    async fn answer(&self) -> u64 {
        let _pass = self.gate.enter().await;
        // Here an application awaits Cassandra, with the pass in its hand.
        tokio::task::yield_now().await;
        self.value.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The last number.
    #[allow(dead_code, reason = "for the test of this example")]
    pub fn value(&self) -> u64 {
        self.value.load(Ordering::SeqCst)
    }
}
