//! What the node answers to each call: the attributes and operations that Cassy asks a Cassandra 5.0 for, and no other.

use std::io;
use std::path::PathBuf;

use cassy_jmx::rmi::hash;
use cassy_jmx::{ObjectName, View};

use super::identity::Identity;
use super::orders::{Order, Orders};
use super::tables::{self, Table};
use super::wire::{Answer, Call, Parameters, invalid};

const ADDRESS: &str = "127.0.0.1";
/// What the process exits with when it was told to.
const EXIT_ON_ORDER: i32 = 3;

/// The node as its MBeans see it.
pub(super) struct Mbeans {
    pub(super) identity: Identity,
    pub(super) data_directories: Vec<PathBuf>,
    pub(super) commitlog: PathBuf,
    pub(super) caches: PathBuf,
    /// The recorded `schema.cql` texts.
    pub(super) schemas: PathBuf,
    pub(super) orders: Orders,
    /// Where the objects of a session are, which is not where the registry is.
    pub(super) objects_port: u16,
}

impl Mbeans {
    /// Obeys the order for this call if there is one, else does what Cassandra does.
    #[allow(clippy::print_stderr, reason = "it is the process's log")]
    #[allow(clippy::disallowed_methods, reason = "to end in the middle of a call is what was ordered")]
    pub(super) fn answer(&self, call: &Call) -> io::Result<Answer> {
        let name = name(call)?;
        eprintln!("{name}");
        let order = self.orders.obey(&name)?;
        match order {
            Some(Order::Fail(message)) => Ok(Answer::Threw(message)),
            Some(Order::Answer(bytes)) => Ok(Answer::Raw(bytes)),
            Some(Order::Exit) => std::process::exit(EXIT_ON_ORDER),
            order => self.perform(call, &name, order.as_ref()),
        }
    }

    fn perform(&self, call: &Call, name: &str, order: Option<&Order>) -> io::Result<Answer> {
        if call.is(hash::LOOKUP) || call.is(hash::LOOKUP_BY_HASH) {
            return Ok(Answer::Registry(self.objects_port));
        }
        Ok(match call.hash {
            h if h == hash::NEW_CLIENT.hash => Answer::Connection(self.objects_port),
            h if h == hash::CLOSE.hash => Answer::Void,
            h if h == hash::GET_DEFAULT_DOMAIN.hash => Answer::Text("DefaultDomain".to_owned()),
            h if h == hash::IS_REGISTERED.hash => Answer::Primitive(true),
            h if h == hash::GET_MBEAN_INFO.hash => Answer::MbeanInfo,
            h if h == hash::QUERY_NAMES.hash => Answer::ObjectNames(self.table_names()?),
            h if h == hash::GET_ATTRIBUTE.hash => self.attribute(name, order)?,
            h if h == hash::INVOKE.hash => self.operation(name, &call.marshalled(2)?, order)?,
            _ => unknown(name),
        })
    }

    fn attribute(&self, name: &str, order: Option<&Order>) -> io::Result<Answer> {
        let identity = &self.identity;
        let ring = || match order {
            Some(Order::Ring(nodes)) => nodes.clone(),
            _ => vec![(ADDRESS.to_owned(), None)],
        };
        let text = |text: &str| Answer::Text(text.to_owned());
        Ok(match name {
            "ReleaseVersion" => text(&identity.release_version),
            "ClusterName" => text(&identity.cluster_name),
            "PartitionerName" => text(&identity.partitioner),
            "OperationMode" => text("NORMAL"),
            "LocalHostId" => text(&identity.host_id),
            "EndpointToHostId" => {
                let own = |id: Option<String>| id.unwrap_or_else(|| identity.host_id.clone());
                Answer::Map(ring().into_iter().map(|(address, id)| (address, own(id))).collect())
            }
            "LiveNodes" => Answer::List(ring().into_iter().map(|(address, _)| address).collect()),
            "UnreachableNodes" | "JoiningNodes" | "LeavingNodes" | "MovingNodes" => Answer::List(Vec::new()),
            "Keyspaces" => Answer::List(self.keyspaces()?),
            "AllDataFileLocations" => {
                Answer::Array(self.data_directories.iter().map(|path| path.display().to_string()).collect())
            }
            "CommitLogLocation" => text(&self.commitlog.display().to_string()),
            "SavedCachesLocation" => text(&self.caches.display().to_string()),
            "IncrementalBackupsEnabled" => Answer::Flag(true),
            // Nobody asks it for rows: it is always at rest.
            "Value" | "Count" => Answer::Number(0),
            "WriteRpcTimeout" => Answer::Number(2000),
            "CounterWriteRpcTimeout" => Answer::Number(5000),
            "CasContentionTimeout" => Answer::Number(1000),
            "PendingHints" => Answer::List(Vec::new()),
            // Rows are the one thing that is left out: own snapshots are looked for on disk.
            "SnapshotDetails" => Answer::Map(Vec::new()),
            _ => unknown(name),
        })
    }

    fn operation(&self, name: &str, parameters: &Parameters, order: Option<&Order>) -> io::Result<Answer> {
        let parameters = parameters.all()?;
        Ok(match (name, parameters.as_slice()) {
            ("getTokens", [_]) => Answer::List(self.identity.tokens.clone()),
            ("getDatacenter", [_]) => Answer::Text(self.identity.datacenter.clone()),
            ("getRack", [_]) => Answer::Text(self.identity.rack.clone()),
            // All that the node knows is in SSTables.
            ("forceKeyspaceFlush", [_, _]) => Answer::Null,
            ("takeSnapshot", [tag, _, keyspaces]) => {
                self.take_snapshot(text(*tag)?, &self.tables_in(*keyspaces)?, order)?
            }
            ("clearSnapshot", [.., tag, keyspaces]) => {
                let tag = text(*tag)?;
                self.tables_in(*keyspaces)?.iter().try_for_each(|table| table.clear_snapshot(tag))?;
                Answer::Null
            }
            _ => unknown(name),
        })
    }

    fn take_snapshot(&self, tag: &str, tables: &[Table], order: Option<&Order>) -> io::Result<Answer> {
        if tables.iter().any(|table| table.has_snapshot(tag)) {
            return Ok(Answer::Threw(format!("Snapshot {tag} already exists.")));
        }
        for table in tables {
            match order {
                Some(Order::FailAt(failing, message)) if *failing == table.full_name() => {
                    return Ok(Answer::Threw(message.clone()));
                }
                Some(Order::Skip(skipped)) if *skipped == table.full_name() => {}
                _ => table.take_snapshot(tag, &self.schemas)?,
            }
        }
        Ok(Answer::Null)
    }

    /// The tables of these keyspaces; of all when none is named, as Cassandra takes it.
    fn tables_in(&self, keyspaces: View<'_>) -> io::Result<Vec<Table>> {
        let named = keyspaces.strings().map_err(invalid)?;
        let mut tables = tables::list(&self.data_directories)?;
        tables.retain(|table| named.is_empty() || named.contains(&table.keyspace.as_str()));
        Ok(tables)
    }

    fn keyspaces(&self) -> io::Result<Vec<String>> {
        let mut names: Vec<String> =
            tables::list(&self.data_directories)?.into_iter().map(|table| table.keyspace).collect();
        names.dedup();
        Ok(names)
    }

    fn table_names(&self) -> io::Result<Vec<String>> {
        let object_name = |table: Table| {
            ObjectName::new("org.apache.cassandra.db")
                .with("type", "Tables")
                .with("keyspace", &table.keyspace)
                .with("table", &table.name)
                .to_string()
        };
        Ok(tables::list(&self.data_directories)?.into_iter().map(object_name).collect())
    }
}

/// The attribute or operation that is meant, else the remote method.
fn name(call: &Call) -> io::Result<String> {
    if call.is(hash::LOOKUP) {
        return Ok("lookup".to_owned());
    }
    if call.hash == hash::GET_ATTRIBUTE.hash || call.hash == hash::INVOKE.hash {
        return text(call.argument(1)).map(str::to_owned);
    }
    let method = hash::ALL.iter().find(|method| call.is(**method));
    let signature = method.map_or("unknown", |method| method.signature);
    Ok(signature.split('(').next().unwrap_or(signature).to_owned())
}

fn text(view: View<'_>) -> io::Result<&str> {
    view.as_str().map_err(invalid)
}

fn unknown(name: &str) -> Answer {
    Answer::Threw(format!("the recorded node has no {name}"))
}
