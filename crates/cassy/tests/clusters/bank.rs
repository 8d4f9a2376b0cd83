//! An application that keeps an invariant: money is moved between accounts of several tables and partitions, always in
//! two separate writes, so that the sum is right exactly at the instants at which nobody moves any.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cassy_testkit::application::FakeApplication;
use cassy_testkit::cql::Cql;
use cassy_testkit::{Cluster, Consistency, Doing, Failure, Probe, wait_for};
use tokio::task::JoinSet;

/// The first lies on one node each, the second on all.
const TABLES: [&str; 2] = ["bank_single.accounts", "bank_triple.accounts"];
/// Each of them moves one thing at a time between accounts that are its own.
const TELLERS: u32 = 4;
/// Of each teller, in each table.
const ACCOUNTS: u32 = 3;
const BALANCE: i64 = 1000;
/// Between the two writes of a move.
const HALFWAY: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(60);

/// Table (by its place in [`TABLES`]) and id -> balance and microseconds at which it was written.
pub(crate) type Accounts = BTreeMap<(usize, u32), (i64, i64)>;

/// A write that Cassandra has acknowledged.
struct Written {
    at_ms: u64,
    account: (usize, u32),
    balance: i64,
    micros: i64,
}

#[derive(Default)]
struct Journal {
    written: Mutex<Vec<Written>>,
    /// So that each write is later than the one before it.
    last_micros: AtomicI64,
    closing: AtomicBool,
}

/// The tellers are at work until [`Bank::close`].
pub(crate) struct Bank {
    journal: Arc<Journal>,
    tellers: JoinSet<Result<(), Failure>>,
}

impl Bank {
    /// Makes the tables, fills the accounts, and sets tellers to work, each behind the gate of an instance.
    pub(crate) async fn open(
        cluster: &mut Cluster,
        instances: &[Arc<FakeApplication>],
    ) -> Result<Self, Failure> {
        let cql = Arc::new(cluster.cql(Consistency::All).await?);
        for (table, replicas) in TABLES.into_iter().zip([1, 3]) {
            let keyspace = table.split('.').next().unwrap_or_default();
            let replication = format!("{{'class': 'SimpleStrategy', 'replication_factor': {replicas}}}");
            cql.execute(&format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}")).await?;
            cql.execute(&format!("CREATE TABLE {table} (id int PRIMARY KEY, balance bigint)")).await?;
        }
        let journal = Arc::new(Journal::default());
        let mut tellers = JoinSet::new();
        for (instance, first) in instances.iter().flat_map(|it| [it; TELLERS as usize]).zip(0..) {
            let teller =
                Teller { cql: Arc::clone(&cql), journal: Arc::clone(&journal), first: first * ACCOUNTS };
            let mut balances = teller.open().await?;
            let instance = Arc::clone(instance);
            tellers.spawn(async move {
                for turn in 0.. {
                    if teller.journal.closing.load(Ordering::Relaxed) {
                        break;
                    }
                    let _pass = instance.gate().enter().await;
                    teller.moves(turn, &mut balances).await?;
                }
                Ok(())
            });
        }
        Ok(Self { journal, tellers })
    }

    /// Waits until every teller can have moved something since.
    pub(crate) async fn is_busy(&self) -> Result<(), Failure> {
        let count = || self.journal.lock().len();
        let enough = count() + 20 * self.tellers.len();
        wait_for("money is moved", LIMIT, async || match count() {
            count if count >= enough => Probe::Ready(()),
            count => Probe::NotYet(format!("{count} writes")),
        })
        .await
    }

    /// What the accounts held at an instant, in Unix milliseconds, at which nobody wrote.
    pub(crate) fn accounts_at(&self, at_ms: u64) -> Accounts {
        let written = self.journal.lock();
        let until = written.iter().filter(|written| written.at_ms <= at_ms);
        until.map(|written| (written.account, (written.balance, written.micros))).collect()
    }

    /// Lets every teller end what it has begun.
    pub(crate) async fn close(mut self) -> Result<(), Failure> {
        self.journal.closing.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tellers.join_next().await {
            ended.doing(|| "end a teller")??;
        }
        Ok(())
    }
}

/// What the accounts hold now.
pub(crate) async fn accounts(cluster: &mut Cluster) -> Result<Accounts, Failure> {
    let cql = cluster.cql(Consistency::All).await?;
    let mut all = Accounts::new();
    for (place, table) in TABLES.into_iter().enumerate() {
        let query = format!("SELECT id, balance, WRITETIME(balance) FROM {table}");
        for row in cql.rows(&query).await? {
            let [id, balance, micros] = &row[..] else { panic!("three columns: {row:?}") };
            all.insert((place, number(id)?), (number(balance)?, number(micros)?));
        }
    }
    Ok(all)
}

/// Whether no money was lost, and none was made.
pub(crate) fn is_whole(accounts: &Accounts) -> bool {
    let (sum, count) =
        accounts.values().fold((0, 0), |(sum, count), (balance, _)| (sum + balance, count + 1));
    count > 0 && sum == count * BALANCE
}

/// `BigInt(5)`.
fn number<T: std::str::FromStr<Err: std::error::Error>>(text: &str) -> Result<T, Failure> {
    let digits = text.trim_start_matches(char::is_alphabetic).trim_matches(['(', ')']);
    digits.parse().doing(|| format!("read the number {text}"))
}

impl Journal {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Written>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_micros(&self) -> i64 {
        let now = i64::try_from(since_epoch().as_micros()).expect("this is long before the year 294,000");
        let later = |last: i64| now.max(last + 1);
        let before =
            self.last_micros.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(later(last)));
        later(before.expect("it is always updated"))
    }
}

struct Teller {
    cql: Arc<Cql>,
    journal: Arc<Journal>,
    /// Of its accounts, which follow each other.
    first: u32,
}

impl Teller {
    async fn open(&self) -> Result<BTreeMap<(usize, u32), i64>, Failure> {
        let mut balances = BTreeMap::new();
        for place in 0..TABLES.len() {
            for id in self.first..self.first + ACCOUNTS {
                self.write((place, id), BALANCE).await?;
                balances.insert((place, id), BALANCE);
            }
        }
        Ok(balances)
    }

    /// From one of its accounts to the next, which lies in the other table most of the time.
    async fn moves(&self, turn: usize, balances: &mut BTreeMap<(usize, u32), i64>) -> Result<(), Failure> {
        let count = u32::try_from(balances.len()).expect("they are few");
        let account = |turn: usize| {
            let number = u32::try_from(turn % balances.len()).expect("they are few");
            (turn % TABLES.len(), self.first + (number * ACCOUNTS / count))
        };
        let (from, to) = (account(turn), account(turn + 1));
        let amount = i64::try_from(turn % 7).expect("it is small") + 1;
        for (account, change) in [(from, -amount), (to, amount)] {
            let balance = balances.get_mut(&account).expect("each teller knows its accounts");
            *balance += change;
            self.write(account, *balance).await?;
            tokio::time::sleep(HALFWAY).await;
        }
        Ok(())
    }

    async fn write(&self, account: (usize, u32), balance: i64) -> Result<(), Failure> {
        let (micros, table) = (self.journal.next_micros(), TABLES[account.0]);
        let values = format!("({}, {balance}) USING TIMESTAMP {micros}", account.1);
        self.cql.execute(&format!("INSERT INTO {table} (id, balance) VALUES {values}")).await?;
        let at_ms =
            u64::try_from(since_epoch().as_millis()).expect("this is long before the year 584,000,000");
        self.journal.lock().push(Written { at_ms, account, balance, micros });
        Ok(())
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970")
}
