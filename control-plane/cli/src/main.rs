//! The `weft` command: parses what was asked, hands it to the module of that name and turns the outcome into an exit code.
//!
//! Exit codes are part of the interface: 0 done, 1 the thing asked about is not well, 2 usage, 3 the control plane cannot be
//! reached; `weft run` exits with the code of its program. No command's own work belongs in this file.

mod admin;
mod apply;
mod check;
mod client;
mod completion;
mod dashboard;
mod delete;
mod demo;
mod describe;
mod diagnose;
mod edges;
mod edit;
mod endpoints;
mod explain;
mod failure;
mod fleet;
mod get;
mod identity;
mod inject;
mod install;
mod metrics;
mod output;
mod plan;
mod plugin;
mod proxy;
mod routes;
mod run;
mod stat;
mod store;
mod tap;
mod token;
mod top;
mod trampoline;
mod up;
mod user;
mod version;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::ffi::OsString;
use std::process::ExitCode;

/// A control plane keeps many small things for long: of its memory this allocator wastes less than the system's, and of its time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What every command may be told.
#[derive(clap::Args, Clone, Debug, Default)]
struct Global {
    /// How to reach the control plane (default: $KUBECONFIG, ./.weft/kubeconfig, ~/.kube/config)
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<std::path::PathBuf>,
    /// Context of the kubeconfig to use instead of its current one
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
}

/// A service mesh for anything that runs: sidecars, mTLS, routing and retries, with or without Kubernetes.
#[derive(Parser, Debug)]
#[command(name = "weft", version, about, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the control plane in this process
    Up(Box<up::Args>),
    /// Start a mesh and a sample shop on loopback, and show it live
    Demo(demo::Args),
    /// Run any program with a sidecar
    Run(Box<run::Args>),
    /// Create or change resources from files, directories or stdin
    Apply(apply::Args),
    /// Add sidecars to the pods in Kubernetes manifests: what is printed can be applied
    Inject(Box<inject::Args>),
    /// Take the sidecars out of manifests again
    Uninject(inject::Sources),
    /// Print what a Kubernetes cluster needs to have a mesh: weft install | kubectl apply -f -
    Install(Box<install::Args>),
    /// Print what takes it away again: weft uninstall | kubectl delete -f -
    Uninstall(install::Removal),
    /// Say what a change would do to the calls of the last hour: nothing is written
    Plan(plan::Args),
    /// Show resources
    Get(get::Args),
    /// Show one resource in detail, with its conditions
    Describe(describe::Args),
    /// Change a resource in an editor
    Edit(edit::Args),
    /// Delete resources
    Delete(delete::Args),
    /// Say whether the mesh is well, and what to do where it is not
    Check(check::Args),
    /// Gather what somebody who helps wants to see of the mesh, without its secrets, into one file
    Diagnose(diagnose::Args),
    /// Say what becomes of a call, and which route and policy decide: nothing is sent
    Explain(explain::Args),
    /// Show success, latency and load of services
    Stat(stat::Args),
    /// Watch services live on the whole terminal
    Top(top::Args),
    /// Show calls as they happen, from the sidecars that carry them (role: get workloads/tap)
    Tap(tap::Args),
    /// Open the dashboard in a browser
    Dashboard(dashboard::Args),
    /// Show who calls whom, how much, and how that goes
    Edges(edges::Args),
    /// Show by which rules calls of services go, and how they fare
    Routes(routes::Args),
    /// Show the endpoints of services, or how one caller's sidecar sees them
    Endpoints(endpoints::Args),
    /// Ask a sidecar for its configuration or its metrics, or change what it logs
    Proxy(proxy::Args),
    /// Make, list and revoke the tokens with which workloads join
    Token(token::Args),
    /// Show roots and certificates, and change the root while the mesh runs
    Identity(identity::Args),
    /// Give people and programs access to the API
    User(user::Args),
    /// Show what was asked of the API; back up and restore what the control plane keeps
    Admin(admin::Args),
    /// Print Prometheus rules and a Grafana dashboard of the mesh's metrics
    Metrics(metrics::Args),
    /// Show the versions of this command and of the control plane
    Version(version::Args),
    /// Print the completion script of a shell
    Completion(completion::Args),
    #[command(name = completion::LIVE, hide = true)]
    Live(completion::LiveArgs),
    #[command(name = trampoline::NAME, hide = true)]
    Trampoline(trampoline::Args),
    /// `weft NAME` runs `weft-NAME`
    #[command(external_subcommand)]
    Plugin(Vec<OsString>),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprint!("{}", failure.render());
            ExitCode::from(failure.exit.code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8, Failure> {
    let global = cli.global;
    match cli.command {
        Command::Trampoline(args) => trampoline::exec(&args),
        Command::Plugin(words) => plugin::exec(&words),
        Command::Completion(args) => completion::script(&args, &mut <Cli as clap::CommandFactory>::command()),
        Command::Metrics(args) => metrics::run(&args),
        Command::Inject(args) => inject::run(&args),
        Command::Uninject(sources) => inject::undo(&sources),
        Command::Install(args) => install::run(&args),
        Command::Uninstall(args) => install::undo(&args),
        Command::Up(args) => block_on(&mut tokio::runtime::Builder::new_multi_thread(), up::run(*args)),
        // One thread for the rest. For `run` and `demo` it matters: the kernel ties a child's death signal to the thread that
        // started it, and the main thread lives as long as the process does.
        Command::Demo(args) => single(demo::run(args)),
        Command::Run(args) => single(run::run(&global, *args)),
        Command::Apply(args) => single(apply::run(&global, args)),
        Command::Plan(args) => single(plan::run(&global, args)),
        Command::Get(args) => single(get::run(&global, args)),
        Command::Describe(args) => single(describe::run(&global, args)),
        Command::Edit(args) => single(edit::run(&global, args)),
        Command::Delete(args) => single(delete::run(&global, args)),
        Command::Check(args) => single(check::run(&global, args)),
        Command::Diagnose(args) => single(diagnose::run(&global, args)),
        Command::Explain(args) => single(explain::run(&global, args)),
        Command::Stat(args) => single(stat::run(&global, args)),
        Command::Top(args) => single(top::run(&global, args)),
        Command::Tap(args) => single(tap::run(&global, args)),
        Command::Dashboard(args) => single(dashboard::run(&global, args)),
        Command::Edges(args) => single(edges::run(&global, args)),
        Command::Routes(args) => single(routes::run(&global, args)),
        Command::Endpoints(args) => single(endpoints::run(&global, args)),
        Command::Proxy(args) => single(proxy::run(&global, args)),
        Command::User(args) => single(user::run(&global, args)),
        Command::Admin(args) => single(admin::run(&global, args)),
        Command::Token(args) => single(token::run(&global, args)),
        Command::Identity(args) => single(identity::run(&global, args)),
        Command::Live(args) => single(completion::live(&global, args)),
        Command::Version(args) => single(version::run(&global, args)),
    }
}

fn single(future: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    block_on(&mut tokio::runtime::Builder::new_current_thread(), future)
}

fn block_on(
    builder: &mut tokio::runtime::Builder,
    future: impl Future<Output = Result<u8, Failure>>,
) -> Result<u8, Failure> {
    builder
        .enable_all()
        .build()
        .map_err(|error| Failure::not_well(format!("cannot start the runtime: {error}")))?
        .block_on(future)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
