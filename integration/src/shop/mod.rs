//! The sample shop: storefront → catalog, orders → users (gRPC), inventory, payments; and the load driver that calls it. Plain programs
//! with a plain HTTP client: no retries, no mesh library. Faults (a share of 503s, a share of slow answers) are flags.

mod client;
mod load;
mod server;
mod services;

pub use services::users_server;

use clap::{Args, Parser};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The shop's gRPC messages, service and client.
pub mod proto {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        reason = "generated from shop.proto"
    )]
    tonic::include_proto!("shop.v1");
}

/// What a shop process can fail with: text for a person.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// `weft-shop`: a service of the sample shop, or its load driver.
#[derive(Parser, Debug)]
#[command(name = "weft-shop", version, about)]
pub enum Command {
    /// The page that users call: `GET /` asks catalog, `POST /checkout` asks catalog and orders.
    Storefront {
        /// Where to listen, and so on.
        #[command(flatten)]
        listen: Listen,
        /// Base URL of catalog.
        #[arg(long, default_value = "http://catalog")]
        catalog: String,
        /// Base URL of orders.
        #[arg(long, default_value = "http://orders")]
        orders: String,
    },
    /// What is for sale.
    Catalog {
        /// Where to listen, and so on.
        #[command(flatten)]
        listen: Listen,
    },
    /// Takes an order: asks users, inventory and payments.
    Orders {
        /// Where to listen, and so on.
        #[command(flatten)]
        listen: Listen,
        /// Base URL of inventory.
        #[arg(long, default_value = "http://inventory")]
        inventory: String,
        /// Base URL of payments.
        #[arg(long, default_value = "http://payments")]
        payments: String,
        /// Base URL of users (gRPC).
        #[arg(long, default_value = "http://users:9000")]
        users: String,
    },
    /// How many are left; sometimes slow, on purpose.
    Inventory {
        /// Where to listen, and so on.
        #[command(flatten)]
        listen: Listen,
        /// Share of calls that are slow, per cent.
        #[arg(long, default_value_t = 0)]
        slow_percent: u32,
        /// How slow.
        #[arg(long, default_value = "120ms", value_parser = duration)]
        slow_for: Duration,
    },
    /// Charges once per `Idempotency-Key`; fails a share of calls with 503, on purpose.
    Payments {
        /// Where to listen, and so on.
        #[command(flatten)]
        listen: Listen,
        /// Share of calls that fail, per cent.
        #[arg(long, default_value_t = 0)]
        fail_percent: u32,
    },
    /// Who buys, over gRPC.
    Users {
        /// Where to listen, and so on.
        #[command(flatten)]
        listen: Listen,
    },
    /// Open-loop load on the storefront: calls start on schedule whether or not earlier ones returned.
    Load(Load),
}

/// What every service takes.
#[derive(Args, Debug, Clone)]
pub struct Listen {
    /// Where to listen.
    #[arg(long)]
    pub listen: SocketAddr,
    /// What this instance calls itself.
    #[arg(long, default_value = "v1")]
    pub version: String,
}

/// Flags of the load driver.
#[derive(Args, Debug, Clone)]
pub struct Load {
    /// Base URL of the storefront.
    #[arg(long)]
    pub target: String,
    /// Calls started in a second.
    #[arg(long, default_value_t = 100)]
    pub rps: u32,
    /// How long; without it until SIGTERM.
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// Where the report goes (JSON, rewritten atomically every 250 ms).
    #[arg(long)]
    pub report: PathBuf,
}

/// Runs the command to its end.
///
/// # Errors
/// When it cannot listen, a URL is malformed, or the report cannot be written.
pub fn run(command: Command) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Load(load) => load::run(load).await,
            other => services::run(other).await,
        }
    })
}

/// `250ms`, `10s`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is not a duration like 250ms, 10s or 2m"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        _ => Err(format!("`{text}` is not a duration like 250ms, 10s or 2m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_a_number_and_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("10").is_err() && duration("s").is_err() && duration("1h30m").is_err());
    }
}
