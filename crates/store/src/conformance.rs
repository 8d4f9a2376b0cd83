//! What every store must do, as one suite for every backend, for a faulty wrapper, and for a user's own store.
//!
//! It writes below a prefix of the caller's choice, which should be unused, and clears what it wrote as far as
//! the store works. It never panics: a failure is an answer.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use cassy_backup_format::ObjectKey;
use futures::{StreamExt, TryStreamExt, future};

use crate::{Store, StoreError};

/// The names of the cases, in the order in which they run.
pub const CASES: &[&str] = &[
    "check",
    "put and get",
    "large object in pieces",
    "never overwrites",
    "one winner among racers",
    "ranges",
    "limit of get",
    "missing objects",
    "list order and prefixes",
    "incomplete objects",
    "abort leaves nothing",
    "delete",
    "names",
];

/// A case that did not go as it must.
#[derive(Debug, thiserror::Error)]
#[error("{case}: {message}")]
pub struct Failure {
    /// One of [`CASES`].
    pub case: &'static str,
    /// What was expected, and what happened, with causes.
    pub message: String,
}

/// Runs every case; answers those that failed. `prefix` without a slash at its end.
pub async fn run(store: &Arc<dyn Store>, prefix: &str) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        let bench = Bench { store: Arc::clone(store), prefix: format!("{prefix}/{number}") };
        let mut outcome = bench.case(case).await;
        if let Err(wrong) = bench.clear().await {
            outcome = outcome.and(Err(wrong));
        }
        if let Err(Wrong(message)) = outcome {
            failures.push(Failure { case, message });
        }
    }
    failures
}

/// What is wrong, in words.
struct Wrong(String);

impl<E: Error> From<E> for Wrong {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Self(message)
    }
}

type Outcome = Result<(), Wrong>;

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(Wrong(message())) }
}

struct Bench {
    store: Arc<dyn Store>,
    prefix: String,
}

impl Bench {
    async fn case(&self, name: &str) -> Outcome {
        match name {
            "check" => Ok(self.store.check().await?),
            "put and get" => self.put_and_get().await,
            "large object in pieces" => self.large_object().await,
            "never overwrites" => self.never_overwrites().await,
            "one winner among racers" => self.racers().await,
            "ranges" => self.ranges().await,
            "limit of get" => self.limit_of_get().await,
            "missing objects" => self.missing().await,
            "list order and prefixes" => self.list_order().await,
            "incomplete objects" => self.incomplete().await,
            "abort leaves nothing" => self.abort().await,
            "delete" => self.delete().await,
            "names" => self.names().await,
            unknown => Err(Wrong(format!("there is no case {unknown}"))),
        }
    }

    fn key(&self, rest: &str) -> Result<ObjectKey, Wrong> {
        Ok(format!("{}/{rest}", self.prefix).parse()?)
    }

    async fn put(&self, rest: &str, body: &[u8]) -> Outcome {
        let stored = self.store.put(&self.key(rest)?, Bytes::copy_from_slice(body)).await?;
        ensure(stored.size == body.len() as u64, || {
            format!("{rest}: stored {} of {} bytes", stored.size, body.len())
        })
    }

    async fn content(&self, rest: &str) -> Result<Bytes, Wrong> {
        Ok(self.store.get(&self.key(rest)?, 1 << 30).await?)
    }

    /// The rests of the keys under a prefix.
    async fn listed(&self, rest: &str) -> Result<Vec<String>, Wrong> {
        let begin = format!("{}/", self.prefix);
        let keys: Vec<_> = self.store.list(&format!("{begin}{rest}")).try_collect().await?;
        let rests = keys.iter().map(|object| object.key.as_str().strip_prefix(&begin).map(str::to_owned));
        rests.collect::<Option<_>>().ok_or_else(|| Wrong(format!("a listing left its prefix: {keys:?}")))
    }

    async fn expect_listed(&self, rest: &str, expected: &[&str]) -> Outcome {
        let listed = self.listed(rest).await?;
        ensure(listed == expected, || format!("list {rest:?}: expected {expected:?}, got {listed:?}"))
    }

    async fn unfinished(&self) -> Result<Vec<crate::IncompleteObject>, Wrong> {
        Ok(self.store.list_incomplete(&format!("{}/", self.prefix)).try_collect().await?)
    }

    async fn clear(&self) -> Outcome {
        for incomplete in self.unfinished().await? {
            self.store.abort_incomplete(&incomplete).await?;
        }
        let mut objects = self.store.list(&format!("{}/", self.prefix));
        while let Some(object) = objects.try_next().await? {
            self.store.delete(&object.key).await?;
        }
        Ok(())
    }

    async fn put_and_get(&self) -> Outcome {
        for (name, body) in [("empty", &b""[..]), ("one", b"1"), ("some", b"some bytes")] {
            self.put(name, body).await?;
            let content = self.content(name).await?;
            ensure(content == body, || format!("{name}: read {content:?}"))?;
        }
        Ok(())
    }

    async fn large_object(&self) -> Outcome {
        let key = self.key("large")?;
        let body: Vec<u8> =
            (0u32..1_500_000).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let body = Bytes::from(body);
        let mut writer = self.store.create(&key, Some(body.len() as u64)).await?;
        let mut from = 0;
        for size in [1usize, 0, 4095, 1 << 20, 3_000_001, usize::MAX] {
            let until = from + size.min(body.len() - from);
            writer.write(body.slice(from..until)).await?;
            from = until;
        }
        let stored = writer.finish().await?;
        ensure(stored.size == body.len() as u64, || format!("stored {} bytes", stored.size))?;
        let content = self.content("large").await?;
        ensure(content == body, || "it was read back differently".to_owned())
    }

    async fn never_overwrites(&self) -> Outcome {
        self.put("taken", b"first").await?;
        match self.store.put(&self.key("taken")?, Bytes::from_static(b"second")).await {
            Err(StoreError::AlreadyExists { .. }) => {}
            other => return Err(Wrong(format!("a second put answered {other:?}"))),
        }
        let content = self.content("taken").await?;
        ensure(content == "first", || format!("it now holds {content:?}"))?;
        ensure(self.unfinished().await?.is_empty(), || "the loser left something".to_owned())
    }

    async fn racers(&self) -> Outcome {
        let key = self.key("race")?;
        let racers = (0..16u8).map(|racer| {
            let (store, key) = (Arc::clone(&self.store), key.clone());
            async move { (racer, store.put(&key, Bytes::from(vec![racer; 100_000])).await) }
        });
        let mut winners = Vec::new();
        for (racer, outcome) in future::join_all(racers).await {
            match outcome {
                Ok(_) => winners.push(racer),
                Err(StoreError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let [winner] = winners.as_slice() else {
            return Err(Wrong(format!("of 16 racers these won: {winners:?}")));
        };
        let content = self.content("race").await?;
        let is_winners = content.len() == 100_000 && content.iter().all(|byte| byte == winner);
        ensure(is_winners, || "the object is not the winner's".to_owned())
    }

    async fn ranges(&self) -> Outcome {
        let key = self.key("ranged")?;
        let body: Vec<u8> = (0..=255u8).cycle().take(3_000_000).collect();
        self.put("ranged", &body).await?;
        for range in
            [0..0, 0..1, 5..5, 100..1_048_676, 2_999_999..3_000_000, 3_000_000..3_000_000, 0..3_000_000]
        {
            let pieces: Vec<Bytes> = self.store.read(&key, Some(range.clone())).await?.try_collect().await?;
            let (start, end) = (usize::try_from(range.start)?, usize::try_from(range.end)?);
            let same = body.get(start..end) == Some(pieces.concat().as_slice());
            ensure(same, || format!("range {range:?} was read differently"))?;
        }
        for range in [2_999_999..3_000_001, 3_000_001..3_000_002] {
            match self.store.read(&key, Some(range.clone())).await {
                Err(StoreError::OutOfRange { .. }) => {}
                Ok(_) => return Err(Wrong(format!("range {range:?} was accepted"))),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn limit_of_get(&self) -> Outcome {
        self.put("ten", b"0123456789").await?;
        let key = self.key("ten")?;
        self.store.get(&key, 10).await?;
        match self.store.get(&key, 9).await {
            Err(StoreError::TooLarge { .. }) => Ok(()),
            other => Err(Wrong(format!("ten bytes with a limit of nine: {other:?}"))),
        }
    }

    async fn missing(&self) -> Outcome {
        self.put("there/object", b"x").await?;
        for rest in ["absent", "there", "absent/below", "there/absent"] {
            match self.store.get(&self.key(rest)?, 10).await {
                Err(error) if error.is_not_found() => {}
                other => return Err(Wrong(format!("get of {rest}: {other:?}"))),
            }
        }
        Ok(())
    }

    async fn list_order(&self) -> Outcome {
        let rests =
            ["a", "a-b", "a.b/c", "a/b", "a/b.c/d", "a0", "b/1", "b/10", "b/2", "c%2Fd", "c+d", "e/f/g/h"];
        for rest in rests.iter().rev() {
            // A directory cannot be an object too on every store.
            if *rest != "a" {
                self.put(rest, b"x").await?;
            }
        }
        let mut expected: BTreeSet<&str> = rests.iter().copied().collect();
        expected.remove("a");
        let expected: Vec<&str> = expected.into_iter().collect();
        self.expect_listed("", &expected).await?;
        self.expect_listed("a", &["a-b", "a.b/c", "a/b", "a/b.c/d", "a0"]).await?;
        self.expect_listed("a/", &["a/b", "a/b.c/d"]).await?;
        self.expect_listed("b/1", &["b/1", "b/10"]).await?;
        self.expect_listed("e/f", &["e/f/g/h"]).await?;
        self.expect_listed("e/f/g/h", &["e/f/g/h"]).await?;
        self.expect_listed("absent", &[]).await?;
        self.expect_listed("absent/below/", &[]).await
    }

    async fn incomplete(&self) -> Outcome {
        let key = self.key("dir/begun")?;
        let mut writer = self.store.create(&key, None).await?;
        writer.write(Bytes::from(vec![7; 2 << 20])).await?;
        self.expect_listed("", &[]).await?;
        match self.store.get(&key, 1 << 30).await {
            Err(error) if error.is_not_found() => {}
            other => {
                return Err(Wrong(format!(
                    "an unfinished object was read: {:?}",
                    other.map(|body| body.len())
                )));
            }
        }
        writer.finish().await?;
        self.expect_listed("", &["dir/begun"]).await?;
        ensure(self.unfinished().await?.is_empty(), || "a finished object counts as unfinished".to_owned())
    }

    async fn abort(&self) -> Outcome {
        let mut writer = self.store.create(&self.key("gone/1")?, None).await?;
        writer.write(Bytes::from(vec![7; 2 << 20])).await?;
        writer.abort().await?;
        self.store.create(&self.key("gone/2")?, None).await?.abort().await?;
        self.expect_listed("", &[]).await?;
        ensure(self.unfinished().await?.is_empty(), || "an aborted object counts as unfinished".to_owned())?;
        self.put("gone/1", b"again").await
    }

    async fn delete(&self) -> Outcome {
        let key = self.key("a/b/c")?;
        self.store.delete(&key).await?;
        self.put("a/b/c", b"x").await?;
        self.put("a/b/d", b"x").await?;
        self.store.delete(&key).await?;
        self.store.delete(&key).await?;
        self.store.delete(&self.key("a/b")?).await?;
        self.expect_listed("", &["a/b/d"]).await?;
        self.put("a/b/c", b"again").await?;
        self.expect_listed("", &["a/b/c", "a/b/d"]).await
    }

    async fn names(&self) -> Outcome {
        let long = "x".repeat(255);
        let names = [
            "%2E%2E/%2F",
            "-leading",
            ".hidden/file",
            "a,b",
            "a=b@c",
            "nb-1-big-SAI+aa+i+Meta.db",
            "~",
            "a b",
            "NUL",
            "back\\slash",
            "ünïcode",
            "\u{202e}rtl",
            "*?[]{}$(id);&|<>\"'`",
            long.as_str(),
            "x.part",
        ];
        for name in names {
            self.put(name, name.as_bytes()).await?;
        }
        for name in names {
            let content = self.content(name).await?;
            ensure(content == name, || format!("{name:?} holds {content:?}"))?;
        }
        let listed: BTreeSet<String> = self.listed("").await?.into_iter().collect();
        let expected: BTreeSet<String> = names.iter().map(|&name| name.to_owned()).collect();
        ensure(listed == expected, || format!("listed {listed:?}"))?;
        let count = self.store.list(&format!("{}/", self.prefix)).count().await;
        ensure(count == names.len(), || format!("{count} objects were listed"))
    }
}
