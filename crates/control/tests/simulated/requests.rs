//! What the applications do all the time: requests pass the gate and write on two nodes. And a writer without any gate.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::nodes::WRITE_TIMEOUT_MS;
use crate::world::{Deed, World};

impl World {
    /// The requests of the process that runs now; they end with it.
    pub(crate) fn send_requests(self: &Arc<Self>, index: usize) {
        let world = Arc::clone(self);
        let gate = self.lock().apps[index].process.gate();
        let requests = self.handle.spawn(async move {
            let name = format!("request {index}");
            loop {
                world.delay(&name, 5, 150).await;
                let pass = gate.enter().await;
                let place = world.place();
                world.lock().deeds.push(Deed::Passed(place, index));
                // Some work for long before they write: no counter of Cassandra's has seen them by then.
                let longest = if world.dice(&name).percent(30) { 400 } else { 30 };
                world.delay(&name, 0, longest).await;
                // Others only read: that they passed is seen by nobody who counts writes.
                if world.dice(&name).percent(50) {
                    world.write_twice(&name).await;
                }
                drop(pass);
            }
        });
        let before = self.lock().apps[index].requests.replace(requests.abort_handle());
        before.inspect(AbortHandle::abort);
    }

    async fn write_twice(self: &Arc<Self>, name: &str) {
        for _ in 0..2 {
            let count = self.lock().nodes.len();
            let node = self.dice(name).below(count);
            let world = Arc::clone(self);
            // The coordinator goes on when the process is gone.
            self.here(async move { world.write(node).await }).await;
        }
    }

    /// One write: it is counted when it ends, and takes effect at some instant before.
    pub(crate) async fn write(self: Arc<Self>, node: usize) {
        let name = format!("write {node}");
        let slow = self.dice(&name).percent(3);
        let total = self.dice(&name).between(1, if slow { WRITE_TIMEOUT_MS - 10 } else { 12 });
        let effect = self.dice(&name).between(0, total);
        self.lock().nodes[node].tasks += 1;
        sleep(Duration::from_millis(effect)).await;
        let place = self.place();
        self.lock().deeds.push(Deed::Written(place, node));
        sleep(Duration::from_millis(total - effect)).await;
        let place = self.place();
        let mut state = self.lock();
        state.deeds.push(Deed::Written(place, node));
        state.nodes[node].writes += 1;
        state.nodes[node].tasks -= 1;
    }
}
