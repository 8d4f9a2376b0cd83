//! Whole sessions with a server that plays damaged recordings: each ends within its deadline.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cassy_fuzz::Fuzz;
use cassy_jmx::{Channel, Dialer, Error, JmxClient};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, timeout};

const WITHIN: Duration = Duration::from_secs(20);
const STORAGE: &str = "org.apache.cassandra.db:type=StorageService";
const GREETING: &[u8] = b"\x4e\x00\x09127.0.0.1\x00\x00\x1c\x1f";

/// What the server says: first its greeting, then one answer to each call, whatever connection that comes on. Then
/// nothing more, or the end.
type Script = Arc<Mutex<VecDeque<Vec<u8>>>>;

/// Every answer with its length before it, so that a damaged length moves what follows.
fn recording(answers: &[&[u8]]) -> Vec<u8> {
    let length = |answer: &&[u8]| u16::try_from(answer.len()).unwrap().to_be_bytes();
    answers.iter().flat_map(|answer| [&length(answer)[..], answer].concat()).collect()
}

fn script(mut bytes: &[u8]) -> VecDeque<Vec<u8>> {
    let mut answers = VecDeque::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let end = rest.len().min(usize::from(u16::from_be_bytes(*length)));
        let (answer, after) = rest.split_at(end);
        answers.push_back(answer.to_vec());
        bytes = after;
    }
    answers
}

struct Actor {
    greeting: Vec<u8>,
    script: Script,
    hangs_up: bool,
}

#[async_trait]
impl Dialer for Actor {
    async fn dial(&self, host: &str, _port: u16) -> io::Result<Box<dyn Channel>> {
        assert_eq!(host, "node.example", "an advertised host is never dialled");
        let (ours, theirs) = duplex(128 << 10);
        let play = play(theirs, self.greeting.clone(), Arc::clone(&self.script), self.hangs_up);
        tokio::spawn(async move {
            let _the_client_hung_up: io::Result<()> = play.await;
        });
        Ok(Box::new(ours))
    }

    fn is_confidential(&self, _host: &str) -> bool {
        true
    }
}

async fn play(mut stream: DuplexStream, greeting: Vec<u8>, script: Script, hangs_up: bool) -> io::Result<()> {
    stream.read_exact(&mut [0; 13]).await?;
    stream.write_all(&greeting).await?;
    let mut heard = vec![0; 16 << 10];
    loop {
        let count = stream.read(&mut heard).await?;
        let heard = heard.get(..count).unwrap_or_default();
        // An acknowledgement may come alone or right before a call.
        let call = if heard.first() == Some(&0x54) { heard.get(15..).unwrap_or_default() } else { heard };
        if count > 0 && call.is_empty() {
            continue;
        }
        let answer = script.lock().unwrap().pop_front();
        match answer {
            Some(answer) => stream.write_all(&answer).await?,
            None if hangs_up || count == 0 => return Ok(()),
            // Silent until the client has had enough.
            None => {}
        }
    }
}

/// Everything that a client does, each call within the deadline.
async fn converse(bytes: &[u8]) -> bool {
    let mut answers = script(bytes);
    let greeting = answers.pop_front().unwrap_or_default();
    let script = Arc::new(Mutex::new(answers));
    let dialer = Arc::new(Actor { greeting, script, hangs_up: bytes.len().is_multiple_of(2) });
    let limits = super::limits();
    let connecting = JmxClient::connect(dialer, "node.example", 7199, None, limits, WITHIN);
    let Ok(mut client) = in_time(connecting).await else { return false };
    let mut all = true;
    for attribute in ["Keyspaces", "SnapshotDetails"] {
        let read = in_time(client.get(STORAGE, attribute)).await;
        all &= read.as_ref().is_ok_and(|reply| reply.view().items().is_ok());
        if let Ok(reply) = read {
            super::look(reply.view(), 0);
        }
    }
    all &= in_time(client.query_names("org.apache.cassandra.db:type=Tables,*")).await.is_ok();
    all &= in_time(client.mbean_info(STORAGE)).await.is_ok();
    all &= in_time(client.is_registered(STORAGE)).await.is_ok();
    all &= in_time(client.invoke(STORAGE, "takeSnapshot", &[], &[], WITHIN)).await.is_ok();
    in_time(client.close()).await.is_ok() && all
}

/// The clock stands still but for waiting, so that a deadline is met to the millisecond.
async fn in_time<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let start = Instant::now();
    let result = timeout(WITHIN * 2, call).await.expect("a call ends");
    assert!(start.elapsed() <= WITHIN + Duration::from_millis(2), "{:?}", start.elapsed());
    if let Err(error) = &result {
        let text = error.to_string();
        assert!(!text.contains(char::is_control) && text.len() < 100_000, "{text:?}");
    }
    result
}

fn recorded(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/vectors/{name}.resp.bin", env!("CARGO_MANIFEST_DIR"));
    fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_call_to_a_server_that_misbehaves_ends_in_time() {
    let session = |names: [&str; 9]| {
        let answers = names.map(recorded);
        let answers: Vec<&[u8]> = [GREETING].into_iter().chain(answers.iter().map(Vec::as_slice)).collect();
        recording(&answers)
    };
    let good = session([
        "jvm17-client/00-lookup",
        "jvm17-client/02-newClient-null",
        "server17-agent/13-getAttribute-Keyspaces",
        "server17-agent/08-getAttribute-LiveNodes",
        "jvm17-client/11-queryNames",
        "jvm17-client/13-getMBeanInfo",
        "jvm17-client/12-isRegistered",
        "jvm17-client/06-invoke-takeSnapshot-Map-StringArray",
        "jvm17-client/20-close",
    ]);
    // Sessions that go, objects that are not there, results that cannot be written.
    let bad = session([
        "server17-agent/00-lookup",
        "server17-agent/01-newClient",
        "server17-agent/69-getAttribute-after-close-NoSuchObject",
        "server17-agent/00-lookup",
        "server17-agent/01-newClient",
        "server17-agent/24-getAttribute-SnapshotDetails",
        "server17-agent/62-invoke-testReturnUnserializable-TC_EXCEPTION",
        "server17-agent/36-getAttribute-InstanceNotFound",
        "server17-agent/39-invoke-takeSnapshot-emptytag-IOException",
    ]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap();
    let fuzz = Fuzz::new("jmx conversation").seeds([good, bad]).words(super::words()).cost(10);
    fuzz.memory_bytes(32 << 20).run(|bytes| runtime.block_on(converse(bytes)));
}
