//! What the SSH session's task asks and tells: the host key is judged, banners and the end are noted, and the node
//! may open nothing towards the server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use russh::Channel;
use russh::client::{self, DisconnectReason, Msg};
use russh::keys::{PublicKey, PublicKeyOrCertificate};

use crate::error::SshError;
use crate::host_keys::{KnownKeys, Trust};
use crate::text::printable;

/// The host key of this connection, and what was known of it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) key: PublicKey,
    pub(crate) trust: Trust,
}

/// What the session's task has noticed, for those who ask later.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Notes>>);

#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) judged: Option<Result<Seen, SshError>>,
    pub(crate) banner: Option<String>,
    ended: Option<String>,
}

impl Heard {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Notes> {
        // Notes are single values; a panic elsewhere cannot leave them half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the connection ended.
    pub(crate) fn ending(&self) -> String {
        self.lock().ended.clone().unwrap_or_else(|| "the node closed it".into())
    }
}

/// Judges the host key, notes banners and the end, and lets the node open nothing towards us.
pub(crate) struct Watcher {
    pub(crate) known: KnownKeys,
    pub(crate) heard: Heard,
}

impl client::Handler for Watcher {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let key = shown.public_key();
        let judged = self.known.judge(&key).map(|trust| Seen { key, trust });
        let trusted = judged.is_ok();
        self.heard.lock().judged = Some(judged);
        Ok(trusted)
    }

    async fn auth_banner(&mut self, banner: &str, _: &mut client::Session) -> Result<(), russh::Error> {
        let banner = printable(banner);
        self.heard.lock().banner = Some(banner).filter(|banner| !banner.is_empty());
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<russh::Error>) -> Result<(), russh::Error> {
        let (ended, result) = match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                (format!("the node says \"{}\"", printable(&info.message)), Ok(()))
            }
            DisconnectReason::Error(error @ (russh::Error::Disconnect | russh::Error::HUP)) => {
                ("the node closed it".into(), Err(error))
            }
            DisconnectReason::Error(error) => (printable(&error.to_string()), Err(error)),
        };
        self.heard.lock().ended = Some(ended);
        result
    }

    // A node has no business opening channels towards the server: dropping the reply refuses.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }
}
