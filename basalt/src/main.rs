//! The one binary: `basalt serve` and the operator's commands.
//!
//! Exit status: 0 done, 1 an error (one line on stderr), 2 wrong usage, 3 a store is damaged.

mod clouds_yaml;
mod commands;
mod config;
mod data_dir;
mod error;
mod logging;
mod secrets;
mod serve;
mod signals;
mod store_calls;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use uuid::Uuid;

use commands::policy::{Question, Service};
use config::{Config, Settings};
use error::{Error, Result};

/// Threads of the runtime: enough for requests and NBD, bounded on big machines.
const MOST_WORKER_THREADS: usize = 8;
/// Threads for blocking calls (files, hashing); each costs memory, so they are capped.
const MOST_BLOCKING_THREADS: usize = 32;
/// Exit status of `basalt db check` where migrations are pending.
const BEHIND: u8 = 2;
/// Exit status of a command that found damage.
const DAMAGED: u8 = 3;

/// Block storage and images with the APIs of OpenStack's Cinder and Glance. Without a command
/// it serves.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where data and configuration are.
#[derive(Args)]
struct Place {
    /// Folder of the database, the store and the secrets; made at the first start.
    #[arg(long, global = true, value_name = "DIR", default_value = "basalt-data")]
    data_dir: PathBuf,
    /// An oslo.config INI file; may be given several times, later ones win.
    #[arg(long = "config-file", global = true, value_name = "FILE")]
    config_files: Vec<PathBuf>,
    /// Log one JSON object a line.
    #[arg(long, global = true)]
    log_json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the APIs (the default).
    Serve {
        /// Run this role; may be given several times. Without it, all of them.
        #[arg(long = "role", value_name = "ROLE", value_enum)]
        roles: Vec<serve::Role>,
    },
    /// List flows: those that have not ended, or all.
    Flows {
        /// Ended ones as well, newest first.
        #[arg(long)]
        all: bool,
        /// Only those of this volume, snapshot, backup or image.
        #[arg(long, value_name = "ID")]
        resource: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Print a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Look at one flow, or decide about one that is parked.
    #[command(subcommand)]
    Flow(FlowCommand),
    /// Look after a store, beside the server that uses it or without one.
    #[command(after_help = "Exit status: 0 sound, 1 an error, 2 wrong usage, 3 damage was found.")]
    Store {
        /// The folder of the store: the node's, or a back-end's basalt_store_dir.
        #[arg(long, global = true, value_name = "DIR", default_value = "store")]
        folder: PathBuf,
        /// Instead of a folder: the pool of this back-end, which lies in a Ceph cluster.
        #[arg(long, global = true, value_name = "NAME")]
        backend: Option<String>,
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Look at the database.
    #[command(subcommand)]
    Db(DbCommand),
    /// Look at the policy rules that this configuration makes.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Look after the volume service.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Look after the image service.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Print every option with its default, as a configuration file.
    Options,
}

#[derive(Subcommand)]
enum FlowCommand {
    /// Everything about a flow.
    Show {
        id: Uuid,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Let a parked flow go on from where it stopped.
    Resume { id: Uuid },
    /// Give a parked flow up: it ends, and what it left half-made stays.
    Abandon { id: Uuid },
}

#[derive(Subcommand)]
enum StoreCommand {
    /// Compare all maps, counts and links with each other, and all data with its checksums. No
    /// server may use the store. Of a pool in a cluster: compare it with the database.
    Check {
        /// In a cluster: remove what is left over from clones and backups that have gone.
        #[arg(long)]
        repair: bool,
        /// Leave the data out.
        #[arg(long)]
        quick: bool,
        /// Read at most so many MiB in a second; 0: as fast as the disk.
        #[arg(long, value_name = "MIB", default_value_t = 0)]
        rate_mib: u64,
    },
    /// Read everything that is in use in the order of the disk, and compare it with its checksums.
    Scrub {
        /// Read at most so many MiB in a second; 0: as fast as the disk.
        #[arg(long, value_name = "MIB", default_value_t = 100)]
        rate_mib: u64,
    },
    /// Put the scattered data of an image in order. Snapshots stay as they are.
    Defragment {
        /// POOL/IMAGE, as `du` names it.
        image: String,
        /// Move at most so many MiB in a second; 0: as fast as the disk.
        #[arg(long, value_name = "MIB", default_value_t = 100)]
        rate_mib: u64,
    },
    /// What each image and snapshot maps, and what it has for itself: removing it sets that free.
    Du {
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Every rule, where it comes from and what it says.
    List {
        /// Only those of this service.
        #[arg(long, value_enum)]
        service: Option<Service>,
        /// Print a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Whether a rule admits a caller, and which of its parts refuse. Ends with 1 if it does not.
    Check(Question),
}

#[derive(Subcommand)]
enum DbCommand {
    /// Where the database is, its schema and what it holds.
    Status,
    /// Bring the schema to this release, as each start does. Servers may go on meanwhile.
    Sync,
    /// Whether the schema is this release's. Ends with 2 if migrations are pending, and with 1
    /// if the database cannot be reached or is a newer release's.
    Check,
}

#[derive(Subcommand)]
enum VolumeCommand {
    /// Tell what existed in the last period: notifications volume.exists, snapshot.exists and
    /// backup.exists. For cron, as cinder-volume-usage-audit.
    UsageAudit {
        /// Instead of the last period's begin: YYYY-MM-DD HH:MM:SS in UTC.
        #[arg(long, visible_alias = "start_time", value_name = "TIME")]
        start_time: Option<String>,
        /// Instead of its end.
        #[arg(long, visible_alias = "end_time", value_name = "TIME")]
        end_time: Option<String>,
        /// Tell what was made and deleted in it, too.
        #[arg(long, visible_alias = "send_actions")]
        send_actions: bool,
    },
}

#[derive(Subcommand)]
enum ImageCommand {
    /// Metadata definitions.
    #[command(subcommand)]
    Metadefs(MetadefsCommand),
}

#[derive(Subcommand)]
enum MetadefsCommand {
    /// Load every *.json file of a folder (the format of Glance's etc/metadefs).
    Load {
        folder: PathBuf,
        /// Replace namespaces that exist already; without it they stay as they are.
        #[arg(long)]
        replace: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error @ Error::SchemaBehind { .. }) => {
            eprintln!("basalt: {error}");
            ExitCode::from(BEHIND)
        }
        Err(error @ Error::Damaged { .. }) => {
            eprintln!("basalt: {error}");
            ExitCode::from(DAMAGED)
        }
        Err(error) => {
            eprintln!("basalt: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    if matches!(cli.command, Some(Command::Options)) {
        return commands::options::print();
    }
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = Config::load(&cli.place.config_files, environment)?;
    if let Some(Command::Policy(command)) = cli.command {
        logging::start(false, cli.place.log_json);
        return match command {
            PolicyCommand::List { service, json } => commands::policy::list(&config, service, json),
            PolicyCommand::Check(question) => commands::policy::check(&config, question),
        };
    }
    let settings = Settings::of(&config)?;
    logging::start(settings.debug, cli.place.log_json);
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let runtime = runtime()?;
    let data_dir = cli.place.data_dir;
    let outcome = runtime.block_on(async {
        match cli.command {
            None => serve::serve(&data_dir, config, settings, &[]).await,
            Some(Command::Serve { roles }) => {
                serve::serve(&data_dir, config, settings, &roles).await
            }
            Some(command) => operate(command, &data_dir, &config, &settings).await,
        }
    });
    // Blocking calls that are stuck must not keep the process from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}

/// Runs an operator's command.
async fn operate(
    command: Command,
    data_dir: &std::path::Path,
    config: &Config,
    settings: &Settings,
) -> Result<()> {
    use commands::{db, flows, metadefs, open_database, usage_audit};
    match command {
        Command::Serve { .. } | Command::Policy(_) | Command::Options => Ok(()),
        Command::Flows {
            all,
            resource,
            limit,
            json,
        } => {
            let database = open_database(data_dir, settings).await?;
            flows::list(&database, !all, resource, limit, json).await
        }
        Command::Flow(command) => {
            let database = open_database(data_dir, settings).await?;
            match command {
                FlowCommand::Show { id, json } => flows::show(&database, id, json).await,
                FlowCommand::Resume { id } => flows::resume(&database, id).await,
                FlowCommand::Abandon { id } => flows::abandon(&database, id).await,
            }
        }
        Command::Store {
            backend: Some(backend),
            command,
            ..
        } => look_after_pool(command, &backend, data_dir, config, settings).await,
        Command::Store {
            folder,
            backend: None,
            command,
        } => {
            let data_dir = data_dir.to_owned();
            look_after_store(command, commands::store::Place { data_dir, folder }).await
        }
        Command::Volume(VolumeCommand::UsageAudit {
            start_time,
            end_time,
            send_actions,
        }) => {
            let database = open_database(data_dir, settings).await?;
            let request = usage_audit::Request {
                start_time,
                end_time,
                send_actions,
            };
            usage_audit::run(&database, config, settings, &request).await
        }
        Command::Image(ImageCommand::Metadefs(MetadefsCommand::Load { folder, replace })) => {
            let database = open_database(data_dir, settings).await?;
            metadefs::load(&database, &folder, replace).await
        }
        Command::Db(DbCommand::Status) => {
            let database = open_database(data_dir, settings).await?;
            db::status(&database, data_dir, settings).await
        }
        Command::Db(DbCommand::Sync) => {
            let database = open_database(data_dir, settings).await?;
            db::sync(&database).await
        }
        Command::Db(DbCommand::Check) => {
            let database = open_database(data_dir, settings).await?;
            db::check(&database).await
        }
    }
}

/// An embedded store.
async fn look_after_store(command: StoreCommand, place: commands::store::Place) -> Result<()> {
    use commands::store;
    match command {
        StoreCommand::Check { repair: true, .. } => Err(Error::Usage(
            "--repair is for pools in a cluster: name one with --backend".to_owned(),
        )),
        StoreCommand::Check {
            quick, rate_mib, ..
        } => store::check(&place, !quick, rate_mib).await,
        StoreCommand::Scrub { rate_mib } => store::scrub(&place, rate_mib).await,
        StoreCommand::Defragment { image, rate_mib } => {
            store::defragment(&place, &image, rate_mib).await
        }
        StoreCommand::Du { json } => store::du(&place, json).await,
    }
}

/// A pool in a cluster.
async fn look_after_pool(
    command: StoreCommand,
    backend: &str,
    data_dir: &std::path::Path,
    config: &Config,
    settings: &Settings,
) -> Result<()> {
    use commands::cluster;
    match command {
        StoreCommand::Check { repair, .. } => {
            let database = commands::open_database(data_dir, settings).await?;
            cluster::check(config, &database, backend, repair).await
        }
        StoreCommand::Du { json } => cluster::du(config, backend, json).await,
        StoreCommand::Scrub { .. } | StoreCommand::Defragment { .. } => Err(Error::Usage(
            "the cluster scrubs and defragments by itself".to_owned(),
        )),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.clamp(2, MOST_WORKER_THREADS))
        .max_blocking_threads(MOST_BLOCKING_THREADS)
        .thread_name("basalt")
        .enable_all()
        .build()?;
    Ok(runtime)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from([
            "basalt",
            "serve",
            "--data-dir",
            "d",
            "--config-file",
            "a",
            "--config-file",
            "b",
        ])
        .unwrap();
        assert_eq!(cli.place.config_files.len(), 2);
        assert!(
            Cli::try_parse_from(["basalt", "--data-dir", "d"])
                .unwrap()
                .command
                .is_none()
        );
        assert!(Cli::try_parse_from(["basalt", "serve", "--role", "nonsense"]).is_err());
    }
}
