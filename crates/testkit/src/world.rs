//! One of each: a node, an sshd, a server with SQLite and a store in a directory, all below one directory.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cassy_api::proto::OperationStatus;
use tempfile::TempDir;

use crate::requests::{Outcome, Outcomes};

use crate::{
    Cassandra, CassandraBuilder, CassyServer, Cql, Doing, Failure, Lifetime, Process, ProcessId,
    RecordedBuilder, RecordedNode, Recording, Runtime, ServerSettings, Sshd,
};

/// How the world is to be made.
#[derive(Debug)]
pub struct WorldBuilder<N: Node = Cassandra> {
    directory: TempDir,
    node: N::Builder,
    properties: BTreeMap<String, String>,
    lifetime: Lifetime,
}

impl<N: Node> WorldBuilder<N> {
    /// Changes how the node is made.
    #[must_use]
    pub fn node(mut self, change: impl FnOnce(N::Builder) -> N::Builder) -> Self {
        self.node = change(self.node);
        self
    }

    /// Sets a property of the server, named without the common prefix, over the kit's own.
    #[must_use]
    pub fn property(mut self, key: &str, value: impl Into<String>) -> Self {
        self.properties.insert(key.to_owned(), value.into());
        self
    }

    /// Who ends all of it.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self.node = N::with_lifetime(self.node, lifetime);
        self
    }

    /// The directory below which all of it will live.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the node, the sshd and the server.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start(self) -> Result<World<N>, Failure> {
        let root = self.directory.path();
        let mut node = N::build(self.node)?;
        let ssh = Sshd::start_with(root.join("sshd"), "", self.lifetime);
        let (node_started, sshd) = tokio::join!(node.start(), ssh);
        node_started?;
        let sshd = sshd?;
        let access = Access { jmx_port: node.jmx_port(), sshd: &sshd, known_hosts: sshd.known_hosts() };
        let settings = server_settings(root, &access, self.lifetime, self.properties)?;
        let server = CassyServer::start(settings).await?;
        Ok(World { server, sshd, node, directory: self.directory })
    }
}

/// How a server reaches its nodes.
pub(crate) struct Access<'a> {
    pub(crate) jmx_port: u16,
    pub(crate) sshd: &'a Sshd,
    pub(crate) known_hosts: PathBuf,
}

pub(crate) fn server_settings(
    root: &Path,
    access: &Access<'_>,
    lifetime: Lifetime,
    properties: BTreeMap<String, String>,
) -> Result<ServerSettings, Failure> {
    let (store, agent) = (root.join("store"), root.join("agent"));
    std::fs::create_dir_all(&store).doing(|| format!("make {}", store.display()))?;
    // A place of its own for the agent's binary, so that worlds of different builds do not meet. Nobody else may
    // write to it, or it would not be used.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&agent)
        .doing(|| "make the agent's directory")?;
    let mut settings = ServerSettings::new(root.join("server"));
    settings.lifetime = lifetime;
    settings.set("listen_address", "127.0.0.1");
    settings.set("jmx_port", access.jmx_port.to_string());
    settings.set("ssh_user", access.sshd.user());
    settings.set("ssh_port", access.sshd.port().to_string());
    settings.set("ssh_private_key_path", access.sshd.client_key().display().to_string());
    settings.set("ssh_known_hosts_path", access.known_hosts.display().to_string());
    settings.set("slave_command_path", agent.display().to_string());
    settings.set("storage_base_uri", format!("file://{}", store.display()));
    settings.properties.extend(properties);
    Ok(settings)
}

/// What a world wants of its node.
pub trait Node: Sized {
    /// How it is made.
    type Builder;

    /// Makes it; nothing is started.
    ///
    /// # Errors
    /// When it cannot be made.
    fn build(builder: Self::Builder) -> Result<Self, Failure>;

    /// Sets who ends it.
    fn with_lifetime(builder: Self::Builder, lifetime: Lifetime) -> Self::Builder;

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    fn start(&mut self) -> impl Future<Output = Result<(), Failure>>;

    /// Ends it in order.
    ///
    /// # Errors
    /// When it had to be killed.
    fn stop(&mut self) -> impl Future<Output = Result<(), Failure>>;

    /// Ends it at once.
    fn kill(&mut self);

    /// Removes all that it has written. It must not run.
    ///
    /// # Errors
    /// When a file cannot be removed.
    fn wipe(&mut self) -> Result<(), Failure>;

    /// What the last run logged, also one that did not get ready.
    fn log(&self) -> String;

    /// The port of JMX.
    fn jmx_port(&self) -> u16;

    /// The data directories.
    fn data_directories(&self) -> Vec<PathBuf>;

    /// Its process, running or ended, once it has been started.
    fn process(&self) -> Option<&Process>;

    /// Gives it up: it runs on.
    fn leave_running(&mut self);
}

macro_rules! node {
    ($node:ident, $builder:ident) => {
        impl Node for $node {
            type Builder = $builder;

            fn build(builder: $builder) -> Result<Self, Failure> {
                builder.build()
            }

            fn with_lifetime(builder: $builder, lifetime: Lifetime) -> $builder {
                builder.lifetime(lifetime)
            }

            fn start(&mut self) -> impl Future<Output = Result<(), Failure>> {
                $node::start(self)
            }

            fn stop(&mut self) -> impl Future<Output = Result<(), Failure>> {
                $node::stop(self)
            }

            fn kill(&mut self) {
                $node::kill(self);
            }

            fn wipe(&mut self) -> Result<(), Failure> {
                $node::wipe(self)
            }

            fn log(&self) -> String {
                $node::log(self)
            }

            fn jmx_port(&self) -> u16 {
                $node::jmx_port(self)
            }

            fn data_directories(&self) -> Vec<PathBuf> {
                $node::data_directories(self)
            }

            fn process(&self) -> Option<&Process> {
                $node::process(self)
            }

            fn leave_running(&mut self) {
                $node::leave_running(self);
            }
        }
    };
}
node!(Cassandra, CassandraBuilder);
node!(RecordedNode, RecordedBuilder);

/// A whole installation on loopback. Its parts are public: tests stop, damage and restart them.
#[derive(Debug)]
pub struct World<N: Node = Cassandra> {
    /// The server.
    pub server: CassyServer,
    /// The node's sshd.
    pub sshd: Sshd,
    /// The node.
    pub node: N,
    /// Last, so that it is removed after all that runs in it has ended.
    directory: TempDir,
}

impl World {
    /// A world in a directory that is removed with it.
    ///
    /// # Errors
    /// When there is no room for temporary files.
    pub fn builder(runtime: &Runtime) -> Result<WorldBuilder, Failure> {
        Self::builder_in(runtime, temporary()?)
    }

    /// A world in this directory.
    ///
    /// # Errors
    /// When the directory has no absolute path.
    pub fn builder_in(runtime: &Runtime, directory: TempDir) -> Result<WorldBuilder, Failure> {
        let root = directory.path().canonicalize().doing(|| "make the directory's path absolute")?;
        let node = Cassandra::builder(runtime, root.join("node"));
        Ok(WorldBuilder { directory, node, properties: BTreeMap::new(), lifetime: Lifetime::Owned })
    }

    /// A CQL session with the node.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn cql(&self) -> Result<Cql, Failure> {
        Cql::connect(&self.node).await
    }
}

impl World<RecordedNode> {
    /// A world around a recorded node, in a directory that is removed with it.
    ///
    /// # Errors
    /// When there is no room for temporary files.
    pub fn recorded(recording: &Recording) -> Result<WorldBuilder<RecordedNode>, Failure> {
        let directory = temporary()?;
        let root = directory.path().canonicalize().doing(|| "make the directory's path absolute")?;
        let node = RecordedNode::builder(recording, root.join("node"));
        Ok(WorldBuilder { directory, node, properties: BTreeMap::new(), lifetime: Lifetime::Owned })
    }
}

impl<N: Node> World<N> {
    /// The directory below which all of it lives.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where the backups go.
    pub fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    /// The server's database.
    pub fn database(&self) -> PathBuf {
        self.path().join("server/cassy.db")
    }

    /// The processes that run now.
    pub fn processes(&self) -> Vec<ProcessId> {
        let running = [Some(self.server.process()), Some(self.sshd.process()), self.node.process()];
        running.into_iter().flatten().filter_map(|process| ProcessId::of(process.pid())).collect()
    }

    /// Gives all of it up: it runs on, in a directory that stays. Needs [`Lifetime::Detachable`].
    pub fn leave_running(mut self) -> PathBuf {
        self.server.leave_running();
        self.sshd.leave_running();
        self.node.leave_running();
        self.directory.keep()
    }

    /// Registers the cluster and answers its id.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn register(&self) -> Result<String, Failure> {
        Ok(self.server.register("127.0.0.1").await?.cluster_id)
    }

    /// Begins a backup of type 2 and answers its snapshot id.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn begin_backup(&self, cluster_id: &str) -> Result<String, Failure> {
        Ok(self.server.begin_backup(cluster_id, &[]).await?.snapshot_id)
    }

    /// Takes a backup of type 2, waits until it is complete, and answers its snapshot id.
    ///
    /// # Errors
    /// When the server refuses, or the backup fails.
    pub async fn back_up(&self, cluster_id: &str) -> Result<String, Failure> {
        let snapshot_id = self.begin_backup(cluster_id).await?;
        completed("the backup", self.backup_outcome(&snapshot_id).await?)?;
        Ok(snapshot_id)
    }

    /// Takes a backup of type 3 on this snapshot, waits until it is complete, and answers its message.
    ///
    /// # Errors
    /// When the server refuses, or the backup fails.
    pub async fn add_increment(&self, cluster_id: &str, snapshot_id: &str) -> Result<String, Failure> {
        self.server.begin_increment(cluster_id, snapshot_id).await?;
        let outcome = self.backup_outcome(snapshot_id).await?;
        completed("the increment", outcome.clone())?;
        Ok(outcome.1)
    }

    /// Begins a restore of type 2.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn begin_restore(&self, cluster_id: &str, snapshot_id: &str) -> Result<(), Failure> {
        self.server.begin_restore(cluster_id, snapshot_id, &[]).await.map(drop)
    }

    /// Restores a backup and waits until that is complete.
    ///
    /// # Errors
    /// When the server refuses, or the restore fails.
    pub async fn restore(&self, cluster_id: &str, snapshot_id: &str) -> Result<(), Failure> {
        self.begin_restore(cluster_id, snapshot_id).await?;
        completed("the restore", self.restore_outcome(snapshot_id).await?)
    }

    /// Waits until the newest backup under this id has ended, also over restarts of the server; answers how, and the
    /// message.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn backup_outcome(&self, snapshot_id: &str) -> Result<Outcome, Failure> {
        of_one_node(self.server.backup_outcomes(snapshot_id).await?)
    }

    /// The same for the newest restore of this backup.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn restore_outcome(&self, snapshot_id: &str) -> Result<Outcome, Failure> {
        of_one_node(self.server.restore_outcomes(snapshot_id).await?)
    }
}

pub(crate) fn temporary() -> Result<TempDir, Failure> {
    tempfile::Builder::new().prefix("cassy-test-").tempdir().doing(|| "make a directory")
}

fn of_one_node(outcomes: Outcomes) -> Result<Outcome, Failure> {
    let mut outcomes = outcomes.into_values();
    outcomes.next().ok_or_else(|| Failure::new("the history names no node"))
}

fn completed(what: &str, (status, message): Outcome) -> Result<(), Failure> {
    if status == OperationStatus::Completed {
        return Ok(());
    }
    Err(Failure::new(format!("{what} ended as {}: {message}", status.as_str_name())))
}
