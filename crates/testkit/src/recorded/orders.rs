//! How a test makes the node misbehave: a file per operation, below `orders/` in the node's directory. The test writes
//! it, the node obeys from its next call on, until the file is gone; so an order outlives the node's process.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What the node does when an operation or attribute is asked for. Operations are named as in Java, attributes too;
/// beside those of the MBeans there are `lookup`, `newClient`, `getMBeanInfo`, `isRegistered`, `queryNames`, `close`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Waits until the order is lifted, and then does its work.
    Hang,
    /// Throws an `IOException` at once.
    Fail(String),
    /// As `takeSnapshot` does: the tables before this one (`keyspace.table`) are done, then an `IOException` is thrown.
    FailAt(String, String),
    /// `takeSnapshot` leaves this table (`keyspace.table`) out, and says nothing of it.
    Skip(String),
    /// Answers these bytes in place of a reply.
    Answer(Vec<u8>),
    /// As `EndpointToHostId` and `LiveNodes`: these are the ring's addresses, each with a host id or none for its own.
    Ring(Vec<(String, Option<String>)>),
    /// Ends the process.
    Exit,
}

impl Order {
    fn to_text(&self) -> String {
        match self {
            Self::Hang => "hang".to_owned(),
            Self::Fail(message) => format!("fail {message}"),
            Self::FailAt(table, message) => format!("fail-at {table} {message}"),
            Self::Skip(table) => format!("skip {table}"),
            Self::Answer(bytes) => format!("answer {}", hex::encode(bytes)),
            Self::Ring(nodes) => {
                let node = |(address, host_id): &(String, Option<String>)| {
                    format!(" {address}={}", host_id.as_deref().unwrap_or_default())
                };
                format!("ring{}", nodes.iter().map(node).collect::<String>())
            }
            Self::Exit => "exit".to_owned(),
        }
    }

    fn parse(text: &str) -> io::Result<Self> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "hang" => Ok(Self::Hang),
            "fail" => Ok(Self::Fail(rest.to_owned())),
            "fail-at" => {
                let (table, message) = rest.split_once(' ').unwrap_or((rest, ""));
                Ok(Self::FailAt(table.to_owned(), message.to_owned()))
            }
            "skip" => Ok(Self::Skip(rest.to_owned())),
            "answer" => hex::decode(rest).map(Self::Answer).map_err(io::Error::other),
            "ring" => Ok(Self::Ring(rest.split_whitespace().filter_map(ring_node).collect())),
            "exit" => Ok(Self::Exit),
            _ => Err(io::Error::other(format!("not an order: {text:?}"))),
        }
    }
}

fn ring_node(text: &str) -> Option<(String, Option<String>)> {
    let (address, host_id) = text.split_once('=')?;
    Some((address.to_owned(), Some(host_id.to_owned()).filter(|host_id| !host_id.is_empty())))
}

/// The orders of one node.
#[derive(Debug, Clone)]
pub(super) struct Orders {
    directory: PathBuf,
}

impl Orders {
    pub(super) fn of(node: &Path) -> Self {
        Self { directory: node.join("orders") }
    }

    /// Whole or not at all, as the node may look at any time.
    pub(super) fn give(&self, operation: &str, order: &Order) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let part = self.directory.join(format!("{operation}.part"));
        std::fs::write(&part, order.to_text())?;
        std::fs::rename(part, self.directory.join(operation))
    }

    pub(super) fn lift(&self, operation: &str) -> io::Result<()> {
        absent(std::fs::remove_file(self.directory.join(operation)))
    }

    pub(super) fn holds(&self, operation: &str) -> bool {
        self.held(operation).exists()
    }

    /// The order for this operation. One to hang is obeyed in here.
    #[allow(clippy::disallowed_methods, reason = "the thread of a call has nothing else to do")]
    pub(super) fn obey(&self, operation: &str) -> io::Result<Option<Order>> {
        let order = self.read(operation)?;
        if order != Some(Order::Hang) {
            return Ok(order);
        }
        std::fs::write(self.held(operation), "")?;
        while self.read(operation)? == Some(Order::Hang) {
            std::thread::sleep(LOOK_AGAIN);
        }
        absent(std::fs::remove_file(self.held(operation)))?;
        Ok(None)
    }

    /// What a killed process held is held no more.
    pub(super) fn forget_held(&self) -> io::Result<()> {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return Ok(()) };
        let held = entries.flatten().map(|entry| entry.path());
        held.filter(|path| path.extension().is_some_and(|end| end == "held"))
            .try_for_each(|path| absent(std::fs::remove_file(path)))
    }

    fn read(&self, operation: &str) -> io::Result<Option<Order>> {
        match std::fs::read_to_string(self.directory.join(operation)) {
            Ok(text) => Order::parse(&text).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn held(&self, operation: &str) -> PathBuf {
        self.directory.join(format!("{operation}.held"))
    }
}

fn absent(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_their_file() {
        let directory = tempfile::tempdir().unwrap();
        let orders = Orders::of(directory.path());
        assert_eq!(orders.obey("flush").unwrap(), None);
        for order in [
            Order::Fail("no space left".to_owned()),
            Order::FailAt("shop.orders".to_owned(), "not a word more".to_owned()),
            Order::Skip("shop.orders".to_owned()),
            Order::Answer(vec![0, 255]),
            Order::Ring(vec![("127.0.0.2".to_owned(), None), ("::1".to_owned(), Some("an-id".to_owned()))]),
            Order::Exit,
        ] {
            orders.give("flush", &order).unwrap();
            assert_eq!(orders.obey("flush").unwrap(), Some(order));
        }
        orders.lift("flush").unwrap();
        orders.lift("flush").unwrap();
        assert_eq!(orders.obey("flush").unwrap(), None);
    }

    #[test]
    fn who_hangs_goes_on_when_the_order_is_lifted() {
        let directory = tempfile::tempdir().unwrap();
        let orders = Orders::of(directory.path());
        orders.give("flush", &Order::Hang).unwrap();
        let node = orders.clone();
        let call = std::thread::spawn(move || node.obey("flush").unwrap());
        while !orders.holds("flush") {
            std::thread::yield_now();
        }
        assert!(!call.is_finished());
        orders.lift("flush").unwrap();
        assert_eq!(call.join().unwrap(), None);
        assert!(!orders.holds("flush"));
    }
}
