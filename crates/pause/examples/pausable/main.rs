//! An application that can be paused without dropping a request: a gate that every request passes, and the service
//! `rpc.Admin` that closes and opens it. Copy `gate.rs` and `admin.rs`.
//!
//! ```text
//! cargo run -p cassy-pause --example pausable -- 127.0.0.1:7000 127.0.0.1:60051
//! while sleep 0.2; do echo; done | nc 127.0.0.1 7000
//! grpcurl -plaintext -import-path crates/pause/proto -proto admin.proto \
//!     -d '{"wait_outstanding": true}' 127.0.0.1:60051 rpc.Admin.Pause
//! cassy unpause --instance 127.0.0.1:60051
//! ```

#![allow(unreachable_pub, reason = "the modules are for other programs, too")]

mod admin;
mod application;
mod gate;

use std::error::Error;
use std::net::SocketAddr;

use admin::GateAdmin;
use application::Counter;
use cassy_pause::proto::admin_server::AdminServer;
use gate::Gate;
use tokio::net::TcpListener;
use tonic::transport::Server;

const USAGE: &str =
    "usage: pausable ADDRESS:PORT ADDRESS:PORT (of the application, and of its administration)";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut address = || arguments.next().ok_or(USAGE)?.parse::<SocketAddr>().map_err(|_other| USAGE);
    let (application, administration) = (address()?, address()?);
    let gate = Gate::new();
    let counter = Counter::new(gate.clone());
    let listener = TcpListener::bind(application).await?;
    let admin = Server::builder().add_service(AdminServer::new(GateAdmin { gate })).serve(administration);
    tokio::select! {
        ended = counter.serve(listener) => ended?,
        ended = admin => ended?,
    }
    Ok(())
}
