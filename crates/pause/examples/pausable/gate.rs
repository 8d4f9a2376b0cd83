//! The gate that every request of an application passes. Closed, it holds new requests back, and drops none; those that
//! are through go on to their end.

use std::sync::Arc;

use tokio::sync::watch;

/// One per process.
pub struct Gate {
    state: watch::Sender<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    /// Requests that are through the gate and have not ended.
    under_way: usize,
}

impl Gate {
    /// An open gate.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: watch::Sender::default() })
    }

    /// Waits until the gate is open. The request is under way as long as the answer lives: hold it until everything
    /// that the request writes to Cassandra is acknowledged.
    pub async fn enter(self: &Arc<Self>) -> Pass {
        let mut changes = self.state.subscribe();
        // To look and to be counted is one step: nobody is through a gate that was closed in between.
        while !self.state.send_if_modified(State::let_through) {
            changes.wait_for(|state| !state.closed).await.expect("the gate lives as long as this call");
        }
        Pass(Arc::clone(self))
    }

    /// Closes the gate; fine if it is.
    pub fn close(&self) {
        self.state.send_modify(|state| state.closed = true);
    }

    /// Opens the gate; fine if it is.
    pub fn open(&self) {
        self.state.send_modify(|state| state.closed = false);
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.state.borrow().closed
    }

    /// How many requests are through and have not ended.
    pub fn under_way(&self) -> usize {
        self.state.borrow().under_way
    }

    /// Waits until no request is under way behind a closed gate: true; or until somebody has opened it: false.
    pub async fn drained(&self) -> bool {
        let mut changes = self.state.subscribe();
        let state = changes.wait_for(|state| !state.closed || state.under_way == 0).await;
        state.expect("the gate lives as long as this call").closed
    }
}

impl State {
    fn let_through(&mut self) -> bool {
        if !self.closed {
            self.under_way += 1;
        }
        !self.closed
    }
}

/// A request that is through the gate.
pub struct Pass(Arc<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.under_way -= 1);
    }
}
