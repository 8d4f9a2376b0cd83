//! A network in memory: instances by their addresses, and addresses where nothing answers.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use cassy_agent_protocol::Instance;
use cassy_pause::{ByteStream, Dial};

use super::instance::FakeApplication;

/// See the module. Clones are the same network.
#[derive(Clone, Default)]
pub struct FakeNetwork {
    hosts: Arc<Mutex<BTreeMap<SocketAddr, Arc<FakeApplication>>>>,
}

impl FakeNetwork {
    /// Gives the application an address.
    pub fn add(&self, application: &Arc<FakeApplication>) -> Instance {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let number = u32::try_from(hosts.len()).expect("they are not that many") + 1;
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number);
        let address = SocketAddr::new(address.into(), 60051);
        hosts.insert(address, Arc::clone(application));
        Instance { host: format!("app{number}.example.com"), address }
    }

    /// An instance that nothing is ever heard of.
    #[must_use]
    pub fn silent(&self) -> Instance {
        Instance { host: "silent.example.com".to_owned(), address: ([10, 255, 0, 1], 60051).into() }
    }

    fn find(&self, address: SocketAddr) -> Option<Arc<FakeApplication>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).get(&address).map(Arc::clone)
    }
}

#[async_trait]
impl Dial for FakeNetwork {
    async fn dial(&self, instance: &Instance) -> io::Result<Box<dyn ByteStream>> {
        match self.find(instance.address) {
            Some(application) => Ok(Box::new(application.connect()?)),
            None => std::future::pending().await,
        }
    }
}
