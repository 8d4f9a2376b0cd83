//! What the server says in its log, with the instants of the run: for whoever reads a run that failed.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::world::World;

#[derive(Clone)]
pub(crate) struct Log {
    world: Arc<World>,
    lines: Arc<Mutex<Vec<(u64, String)>>>,
}

impl Log {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        Self { world: Arc::clone(world), lines: Arc::default() }
    }

    pub(crate) fn lines(&self) -> Vec<(u64, String)> {
        self.lines.lock().unwrap().clone()
    }

    pub(crate) fn holds(&self, text: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|(_, line)| line.contains(text))
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("cassy")
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{}:", event.metadata().level()));
        event.record(&mut line);
        self.lines.lock().unwrap().push((self.world.now(), line.0));
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}
