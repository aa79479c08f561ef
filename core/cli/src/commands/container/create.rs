//! `create`, and the options that it shares with `run`.

use bollard_stubs::models::{
    ContainerCreateBody, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount, MountTypeEnum,
    ResourcesBlkioWeightDevice, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum, ThrottleDevice,
};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::client::{Client, Query};
use crate::commands::compose::names;
use crate::commands::image::pull;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{self, Parsed, device, env, health, mounts, network, ports, quantity, restart, security, ulimit};
use crate::output::{say, tell};

/// Options of `create` and `run`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long, value_parser = network::extra_host)]
    pub add_host: Vec<String>,
    /// Add an annotation to the container (passed through to the OCI runtime)
    #[arg(long, value_name = "map")]
    pub annotation: Vec<String>,
    /// Attach to STDIN, STDOUT or STDERR
    #[arg(short, long)]
    pub attach: Vec<String>,
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)
    #[arg(long, value_name = "uint16")]
    pub blkio_weight: Option<u16>,
    /// Block IO weight (relative device weight)
    #[arg(long, value_parser = ulimit::weight)]
    pub blkio_weight_device: Vec<ResourcesBlkioWeightDevice>,
    /// Add Linux capabilities
    #[arg(long)]
    pub cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long)]
    pub cap_drop: Vec<String>,
    /// Optional parent cgroup for the container
    #[arg(long)]
    pub cgroup_parent: Option<String>,
    /// Cgroup namespace to use (host|private)
    #[arg(long, value_parser = cgroup_namespace)]
    pub cgroupns: Option<HostConfigCgroupnsModeEnum>,
    /// Write the container ID to the file
    #[arg(long)]
    pub cidfile: Option<PathBuf>,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int", value_parser = quantity::integer)]
    pub cpu_period: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int", value_parser = quantity::integer)]
    pub cpu_quota: Option<i64>,
    /// Limit CPU real-time period in microseconds
    #[arg(long, value_name = "int", value_parser = quantity::integer)]
    pub cpu_rt_period: Option<i64>,
    /// Limit CPU real-time runtime in microseconds
    #[arg(long, value_name = "int", value_parser = quantity::integer)]
    pub cpu_rt_runtime: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short, long, value_name = "int", value_parser = quantity::integer)]
    pub cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long, value_name = "decimal", value_parser = quantity::nano_cpus)]
    pub cpus: Option<i64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long)]
    pub cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long)]
    pub cpuset_mems: Option<String>,
    /// Add a host device to the container
    #[arg(long, value_parser = device::device)]
    pub device: Vec<device::Device>,
    /// Add a rule to the cgroup allowed devices list
    #[arg(long, value_parser = device::cgroup_rule)]
    pub device_cgroup_rule: Vec<String>,
    /// Limit read rate (bytes per second) from a device
    #[arg(long, value_parser = bps)]
    pub device_read_bps: Vec<ThrottleDevice>,
    /// Limit read rate (IO per second) from a device
    #[arg(long, value_parser = iops)]
    pub device_read_iops: Vec<ThrottleDevice>,
    /// Limit write rate (bytes per second) to a device
    #[arg(long, value_parser = bps)]
    pub device_write_bps: Vec<ThrottleDevice>,
    /// Limit write rate (IO per second) to a device
    #[arg(long, value_parser = iops)]
    pub device_write_iops: Vec<ThrottleDevice>,
    /// Skip image verification
    #[arg(long, default_value = "true", hide = true)]
    pub disable_content_trust: bool,
    /// Set custom DNS servers
    #[arg(long, value_parser = network::address)]
    pub dns: Vec<String>,
    /// Set DNS options
    #[arg(long, alias = "dns-opt")]
    pub dns_option: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long, value_parser = network::search_domain)]
    pub dns_search: Vec<String>,
    /// Container NIS domain name
    #[arg(long)]
    pub domainname: Option<String>,
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long)]
    pub entrypoint: Option<String>,
    /// Set environment variables
    #[arg(short, long)]
    pub env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long)]
    pub env_file: Vec<String>,
    /// Expose a port or a range of ports
    #[arg(long)]
    pub expose: Vec<String>,
    /// GPU devices to add to the container ('all' to pass all GPUs)
    #[arg(long, value_name = "gpu-request")]
    pub gpus: Vec<String>,
    /// Add additional groups to join
    #[arg(long)]
    pub group_add: Vec<String>,
    /// Command to run to check health
    #[arg(long)]
    pub health_cmd: Option<String>,
    /// Time between running the check (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "duration", value_parser = quantity::duration)]
    pub health_interval: Option<i64>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long, value_name = "int", value_parser = quantity::integer)]
    pub health_retries: Option<i64>,
    /// Time between running the check during the start period (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "duration", value_parser = quantity::duration)]
    pub health_start_interval: Option<i64>,
    /// Start period for the container to initialize before starting health-retries countdown (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "duration", value_parser = quantity::duration)]
    pub health_start_period: Option<i64>,
    /// Maximum time to allow one check to run (ms|s|m|h) (default 0s)
    #[arg(long, value_name = "duration", value_parser = quantity::duration)]
    pub health_timeout: Option<i64>,
    /// Container host name
    #[arg(short = 'h', long)]
    pub hostname: Option<String>,
    /// Run an init inside the container that forwards signals and reaps processes
    #[arg(long)]
    pub init: bool,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    pub interactive: bool,
    /// IPv4 address (e.g., 172.30.100.104)
    #[arg(long)]
    pub ip: Option<String>,
    /// IPv6 address (e.g., 2001:db8::33)
    #[arg(long)]
    pub ip6: Option<String>,
    /// IPC mode to use
    #[arg(long)]
    pub ipc: Option<String>,
    /// Container isolation technology
    #[arg(long)]
    pub isolation: Option<String>,
    /// Set meta data on a container
    #[arg(short, long)]
    pub label: Vec<String>,
    /// Read in a line delimited file of labels
    #[arg(long)]
    pub label_file: Vec<String>,
    /// Add link to another container
    #[arg(long)]
    pub link: Vec<String>,
    /// Container IPv4/IPv6 link-local addresses
    #[arg(long)]
    pub link_local_ip: Vec<String>,
    /// Logging driver for the container
    #[arg(long)]
    pub log_driver: Option<String>,
    /// Log driver options
    #[arg(long)]
    pub log_opt: Vec<String>,
    /// Container MAC address (e.g., 92:d0:c6:0a:29:33)
    #[arg(long)]
    pub mac_address: Option<String>,
    /// Memory limit
    #[arg(short, long, value_name = "bytes", value_parser = quantity::bytes)]
    pub memory: Option<i64>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes", value_parser = quantity::bytes)]
    pub memory_reservation: Option<i64>,
    /// Swap limit equal to memory plus swap: '-1' to enable unlimited swap
    #[arg(long, value_name = "bytes", value_parser = quantity::bytes_or_unlimited)]
    pub memory_swap: Option<i64>,
    /// Tune container memory swappiness (0 to 100) (default -1)
    #[arg(long, value_name = "int", value_parser = quantity::integer)]
    pub memory_swappiness: Option<i64>,
    /// Attach a filesystem mount to the container
    #[arg(long, value_name = "mount", value_parser = mount_here)]
    pub mount: Vec<Mount>,
    /// Assign a name to the container
    #[arg(long)]
    pub name: Option<String>,
    /// Connect a container to a network
    #[arg(long, alias = "net", value_name = "network")]
    pub network: Vec<String>,
    /// Add network-scoped alias for the container
    #[arg(long, alias = "net-alias")]
    pub network_alias: Vec<String>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long)]
    pub no_healthcheck: bool,
    /// Disable OOM Killer
    #[arg(long)]
    pub oom_kill_disable: bool,
    /// Tune host's OOM preferences (-1000 to 1000)
    #[arg(long, value_name = "int", value_parser = quantity::integer)]
    pub oom_score_adj: Option<i64>,
    /// PID namespace to use
    #[arg(long)]
    pub pid: Option<String>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "int", value_parser = quantity::integer)]
    pub pids_limit: Option<i64>,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    pub platform: Option<String>,
    /// Give extended privileges to this container
    #[arg(long)]
    pub privileged: bool,
    /// Publish a container's port(s) to the host
    #[arg(short, long)]
    pub publish: Vec<String>,
    /// Publish all exposed ports to random ports
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Pull image before running ("always", "missing", "never")
    #[arg(long, default_value = "missing", value_parser = pull_policy)]
    pub pull: Pull,
    /// Suppress the pull output
    #[arg(short, long)]
    pub quiet: bool,
    /// Mount the container's root filesystem as read only
    #[arg(long)]
    pub read_only: bool,
    /// Restart policy to apply when a container exits (default "no")
    #[arg(long)]
    pub restart: Option<String>,
    /// Automatically remove the container and its associated anonymous volumes when it exits
    #[arg(long)]
    pub rm: bool,
    /// Runtime to use for this container
    #[arg(long)]
    pub runtime: Option<String>,
    /// Security Options
    #[arg(long)]
    pub security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "bytes", value_parser = quantity::bytes)]
    pub shm_size: Option<i64>,
    /// Signal to stop the container
    #[arg(long)]
    pub stop_signal: Option<String>,
    /// Timeout (in seconds) to stop a container
    #[arg(long, value_name = "int", value_parser = quantity::integer)]
    pub stop_timeout: Option<i64>,
    /// Storage driver options for the container
    #[arg(long)]
    pub storage_opt: Vec<String>,
    /// Sysctl options
    #[arg(long, value_name = "map")]
    pub sysctl: Vec<String>,
    /// Mount a tmpfs directory
    #[arg(long)]
    pub tmpfs: Vec<String>,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub tty: bool,
    /// Ulimit options
    #[arg(long, value_name = "ulimit", value_parser = ulimit::ulimit)]
    pub ulimit: Vec<ResourcesUlimits>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long)]
    pub user: Option<String>,
    /// User namespace to use
    #[arg(long)]
    pub userns: Option<String>,
    /// UTS namespace to use
    #[arg(long)]
    pub uts: Option<String>,
    /// Bind mount a volume
    #[arg(short, long)]
    pub volume: Vec<String>,
    /// Optional volume driver for the container
    #[arg(long)]
    pub volume_driver: Option<String>,
    /// Mount volumes from the specified container(s)
    #[arg(long)]
    pub volumes_from: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long)]
    pub workdir: Option<String>,
    /// Image
    pub image: String,
    /// Command and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// Before each use.
    Always,
    /// When it is not there.
    Missing,
    /// Never.
    Never,
}

fn pull_policy(text: &str) -> Parsed<Pull> {
    match text {
        "always" => Ok(Pull::Always),
        "missing" | "" => Ok(Pull::Missing),
        "never" => Ok(Pull::Never),
        other => Err(format!("invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\"")),
    }
}

fn cgroup_namespace(text: &str) -> Parsed<HostConfigCgroupnsModeEnum> {
    match text {
        "host" => Ok(HostConfigCgroupnsModeEnum::HOST),
        "private" => Ok(HostConfigCgroupnsModeEnum::PRIVATE),
        "" => Ok(HostConfigCgroupnsModeEnum::EMPTY),
        _ => Err("invalid CGroup mode: use host or private".to_owned()),
    }
}

fn bps(text: &str) -> Parsed<ThrottleDevice> {
    ulimit::throttle(text, false)
}

fn iops(text: &str) -> Parsed<ThrottleDevice> {
    ulimit::throttle(text, true)
}

fn here() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"))
}

fn mount_here(text: &str) -> Parsed<Mount> {
    mounts::mount(text, &here())
}

fn list<T: Clone>(values: &[T]) -> Option<Vec<T>> {
    (!values.is_empty()).then(|| values.to_vec())
}

fn pairs(values: &[String]) -> Option<HashMap<String, String>> {
    (!values.is_empty()).then(|| flags::map(values))
}

/// What is refused, with the reason.
fn refuse(args: &CreateArgs) -> Parsed<()> {
    if !args.link.is_empty() {
        return Err("--link is not supported: put both containers on a network of their own, where they find each other by name".to_owned());
    }
    if let Some(isolation) = args.isolation.as_deref().filter(|isolation| !matches!(*isolation, "" | "default")) {
        return Err(format!("invalid isolation: {isolation}: only default is known on Linux"));
    }
    if args.memory_swappiness.is_some_and(|value| !(-1..=100).contains(&value)) {
        return Err(format!(
            "invalid value: {}. Valid memory swappiness range is 0-100",
            args.memory_swappiness.unwrap_or(0)
        ));
    }
    if args.blkio_weight.is_some_and(|weight| weight != 0 && !(10..=1000).contains(&weight)) {
        return Err("range of blkio weight is from 10 to 1000".to_owned());
    }
    Ok(())
}

/// Which streams are attached: input, output, errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub input: bool,
    /// Standard output.
    pub output: bool,
    /// Standard error.
    pub errors: bool,
}

impl Streams {
    /// From `--attach`, `--interactive` and `--detach`.
    pub fn chosen(attach: &[String], interactive: bool, detach: bool) -> Parsed<Self> {
        if detach {
            return if attach.is_empty() {
                Ok(Self { input: false, output: false, errors: false })
            } else {
                Err("conflicting options: cannot specify both --attach and --detach".to_owned())
            };
        }
        if attach.is_empty() {
            return Ok(Self { input: interactive, output: true, errors: true });
        }
        let mut streams = Self { input: false, output: false, errors: false };
        for name in attach {
            match name.to_ascii_lowercase().as_str() {
                "stdin" => streams.input = true,
                "stdout" => streams.output = true,
                "stderr" => streams.errors = true,
                _ => {
                    return Err(format!(
                        "invalid argument \"{name}\" for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR"
                    ));
                }
            }
        }
        Ok(streams)
    }

    /// Whether any is.
    pub fn any(self) -> bool {
        self.input || self.output || self.errors
    }
}

/// The body of the request.
pub fn body(args: &CreateArgs, streams: Streams, detach: bool) -> Parsed<ContainerCreateBody> {
    refuse(args)?;
    let policy = args.restart.as_deref().map(restart::policy).transpose()?;
    let restarts = policy.as_ref().and_then(|policy| policy.name).is_some_and(|name| name != RestartPolicyNameEnum::NO);
    if args.rm && restarts {
        return Err("conflicting options: cannot specify both --restart and --rm".to_owned());
    }
    let ports = ports::parse(&args.publish, &args.expose)?;
    let volumes = mounts::volumes(&args.volume, &here())?;
    let networks = network::networks(
        &args.network,
        &network::First {
            aliases: &args.network_alias,
            ip: args.ip.as_deref(),
            ip6: args.ip6.as_deref(),
            mac: args.mac_address.as_deref(),
            link_local: &args.link_local_ip,
        },
    )?;
    let healthcheck = health::config(health::Health {
        command: args.health_cmd.as_deref(),
        interval: args.health_interval,
        timeout: args.health_timeout,
        retries: args.health_retries,
        start_period: args.health_start_period,
        start_interval: args.health_start_interval,
        none: args.no_healthcheck,
    })?;
    let own = |name: &str| std::env::var(name).ok();
    Ok(ContainerCreateBody {
        hostname: args.hostname.clone(),
        domainname: args.domainname.clone(),
        user: args.user.clone(),
        attach_stdin: Some(streams.input),
        attach_stdout: Some(streams.output),
        attach_stderr: Some(streams.errors),
        exposed_ports: list(&ports.exposed),
        tty: Some(args.tty),
        open_stdin: Some(args.interactive),
        stdin_once: Some(!detach && streams.input),
        env: list(&env::environment(&args.env_file, &args.env, own)?),
        cmd: list(&args.command),
        healthcheck,
        image: Some(args.image.clone()),
        volumes: list(&volumes.anonymous),
        working_dir: args.workdir.clone(),
        // An empty entry point takes the image's away.
        entrypoint: args.entrypoint.clone().map(|entry| vec![entry]),
        labels: Some(env::labels(&args.label_file, &args.label)?).filter(|labels| !labels.is_empty()),
        stop_signal: args.stop_signal.clone(),
        stop_timeout: args.stop_timeout,
        host_config: Some(host_config(args, policy, ports, volumes, networks.mode)?),
        networking_config: networks.config,
        ..ContainerCreateBody::default()
    })
}

fn host_config(
    args: &CreateArgs,
    restart_policy: Option<RestartPolicy>,
    ports: ports::Ports,
    volumes: mounts::Volumes,
    network_mode: Option<String>,
) -> Parsed<HostConfig> {
    let (security_opt, unmasked) = security::options(&args.security_opt)?;
    let log_config = (args.log_driver.is_some() || !args.log_opt.is_empty())
        .then(|| HostConfigLogConfig { typ: args.log_driver.clone(), config: Some(flags::map(&args.log_opt)) });
    let console_size = args.tty.then(crate::output::terminal::size).flatten();
    let tmpfs = mounts::tmpfs(&args.tmpfs)?;
    Ok(HostConfig {
        annotations: pairs(&args.annotation),
        auto_remove: Some(args.rm),
        binds: list(&volumes.binds),
        blkio_device_read_bps: list(&args.device_read_bps),
        blkio_device_read_iops: list(&args.device_read_iops),
        blkio_device_write_bps: list(&args.device_write_bps),
        blkio_device_write_iops: list(&args.device_write_iops),
        blkio_weight: args.blkio_weight,
        blkio_weight_device: list(&args.blkio_weight_device),
        cap_add: list(&args.cap_add),
        cap_drop: list(&args.cap_drop),
        cgroup_parent: args.cgroup_parent.clone(),
        cgroupns_mode: args.cgroupns,
        console_size: console_size.map(|(rows, columns)| vec![rows.into(), columns.into()]),
        container_id_file: args.cidfile.as_deref().map(|path| path.display().to_string()),
        cpu_period: args.cpu_period,
        cpu_quota: args.cpu_quota,
        cpu_realtime_period: args.cpu_rt_period,
        cpu_realtime_runtime: args.cpu_rt_runtime,
        cpu_shares: args.cpu_shares,
        cpuset_cpus: args.cpuset_cpus.clone(),
        cpuset_mems: args.cpuset_mems.clone(),
        device_cgroup_rules: list(&args.device_cgroup_rule),
        device_requests: list(&device::requests(&args.device, &args.gpus)?),
        devices: list(&device::nodes(&args.device)),
        dns: list(&args.dns),
        dns_options: list(&args.dns_option),
        dns_search: list(&args.dns_search),
        extra_hosts: list(&args.add_host),
        group_add: list(&args.group_add),
        // Not asked for is the daemon's default, which may be on.
        init: args.init.then_some(true),
        ipc_mode: args.ipc.clone(),
        log_config,
        masked_paths: unmasked.0.then(Vec::new),
        memory: args.memory,
        memory_reservation: args.memory_reservation,
        memory_swap: args.memory_swap,
        memory_swappiness: args.memory_swappiness.filter(|value| *value >= 0),
        mounts: list(&args.mount),
        nano_cpus: args.cpus,
        network_mode,
        oom_kill_disable: args.oom_kill_disable.then_some(true),
        oom_score_adj: args.oom_score_adj,
        pid_mode: args.pid.clone(),
        pids_limit: args.pids_limit,
        port_bindings: (!ports.bindings.is_empty()).then_some(ports.bindings),
        privileged: Some(args.privileged),
        publish_all_ports: Some(args.publish_all),
        readonly_paths: unmasked.0.then(Vec::new),
        readonly_rootfs: Some(args.read_only),
        restart_policy,
        runtime: args.runtime.clone(),
        security_opt: list(&security_opt),
        shm_size: args.shm_size,
        sysctls: pairs(&args.sysctl),
        tmpfs: (!tmpfs.is_empty()).then_some(tmpfs),
        ulimits: list(&args.ulimit),
        storage_opt: pairs(&args.storage_opt),
        userns_mode: args.userns.clone(),
        uts_mode: args.uts.clone(),
        volume_driver: args.volume_driver.clone(),
        volumes_from: list(&args.volumes_from),
        ..HostConfig::default()
    })
}

/// Creates the container, pulling its image as the policy says; its id.
pub async fn create(context: &Context, args: &CreateArgs, body: &ContainerCreateBody) -> Outcome<String> {
    if let Some(path) = &args.cidfile
        && path.exists()
    {
        return Err(Failure::new(format!(
            "container ID file found, make sure the other container isn't running or delete {}",
            path.display()
        ))
        .with_code(125));
    }
    let client = &context.client;
    let pull = async |image: &str| {
        let pulled = pull::for_run(context, image, args.platform.as_deref(), args.quiet).await;
        pulled.map_err(|failure| failure.with_code(125))
    };
    if args.pull == Pull::Always {
        pull(&args.image).await?;
    }
    let mut fetched: Vec<&str> = Vec::new();
    let created = loop {
        let failure = match send(client, args, body).await {
            Err(failure) if failure.is_not_found() && args.pull == Pull::Missing => failure,
            other => break other,
        };
        // The container's own image, or one that it mounts.
        let Some(image) = missing_image(&failure, args, body).filter(|image| !fetched.contains(image)) else {
            break Err(failure);
        };
        tell!("Unable to find image '{}' locally", pull::familiar(image));
        if image == args.image && names::is_service(context, image).await {
            tell!("{image} is a service of the project here: `sampan compose run {image}` runs it");
        }
        pull(image).await?;
        fetched.push(image);
    };
    let created = created.map_err(|failure| failure.of_program().with_code(125))?;
    for warning in created["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        tell!("WARNING: {warning}");
    }
    let id = created["Id"].as_str().unwrap_or_default().to_owned();
    if let Some(path) = &args.cidfile {
        write_id(path, &id)?;
    }
    Ok(id)
}

/// The image that is missing, if it is one, and not a network or a volume's driver.
fn missing_image<'a>(failure: &Failure, args: &'a CreateArgs, body: &'a ContainerCreateBody) -> Option<&'a str> {
    if !failure.message.to_ascii_lowercase().contains("image") {
        return None;
    }
    let mounts = body.host_config.iter().flat_map(|host| host.mounts.iter().flatten());
    let images =
        mounts.filter(|mount| mount.typ == Some(MountTypeEnum::IMAGE)).filter_map(|mount| mount.source.as_deref());
    let told = |image: &&str| failure.message.ends_with(&format!("No such image: {image}"));
    Some(images.filter(|image| *image != args.image).find(told).unwrap_or(&args.image))
}

async fn send(client: &Client, args: &CreateArgs, body: &ContainerCreateBody) -> Outcome<Value> {
    let query = Query::new().maybe("name", args.name.as_deref()).maybe("platform", args.platform.as_deref());
    client.post(&format!("/containers/create{query}"), body).await
}

fn write_id(path: &Path, id: &str) -> Outcome {
    std::fs::write(path, id).map_err(|error| {
        Failure::new(format!("write the container ID to the file {}: {error}", path.display())).with_code(125)
    })
}

/// `create`
pub async fn run(context: Context, args: CreateArgs) -> Outcome {
    let streams = Streams::chosen(&args.attach, args.interactive, false).map_err(Failure::usage)?;
    let body = body(&args, streams, false).map_err(Failure::usage)?;
    let id = create(&context, &args, &body).await?;
    say!("{id}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::app::parse_for_test;
    use serde_json::json;

    fn sent(words: &[&str]) -> Value {
        let args: CreateArgs = parse_for_test(words).unwrap();
        let streams = Streams::chosen(&args.attach, args.interactive, false).unwrap();
        let mut value = serde_json::to_value(body(&args, streams, false).unwrap()).unwrap();
        strip(&mut value);
        value
    }

    /// Without what says nothing: nulls and flags that are off.
    fn strip(value: &mut Value) {
        if let Value::Object(map) = value {
            map.retain(|_, value| !matches!(value, Value::Null | Value::Bool(false)));
            map.values_mut().for_each(strip);
        }
    }

    #[test]
    fn a_plain_container_says_little() {
        assert_eq!(
            sent(&["busybox", "echo", "-n", "x"]),
            json!({"AttachStdout": true, "AttachStderr": true, "Cmd": ["echo", "-n", "x"], "Image": "busybox", "HostConfig": {}})
        );
    }

    #[test]
    fn flags_reach_their_fields() {
        let body = sent(&[
            "-i",
            "--name",
            "n",
            "-e",
            "A=1",
            "-p",
            "127.0.0.1:8080:80/udp",
            "-v",
            "/a:/b:ro",
            "-v",
            "/anon",
            "-m",
            "64m",
            "--cpus",
            "1.5",
            "--network",
            "mine",
            "--network-alias",
            "db",
            "--restart",
            "on-failure:3",
            "--ulimit",
            "nofile=1:2",
            "--cap-add=NET_ADMIN",
            "--entrypoint",
            "",
            "--health-cmd",
            "true",
            "--health-interval=5s",
            "--label",
            "a=b",
            "--tmpfs",
            "/run",
            "--init",
            "-w",
            "/x",
            "-u",
            "1:1",
            "--oom-score-adj",
            "-5",
            "--log-driver",
            "none",
            "--mount",
            "type=tmpfs,dst=/t",
            "--stop-timeout",
            "3",
            "--security-opt",
            "systempaths=unconfined",
            "img",
        ]);
        let host = &body["HostConfig"];
        assert_eq!(body["Env"], json!(["A=1"]));
        assert_eq!(
            (&body["OpenStdin"], &body["StdinOnce"], &body["AttachStdin"]),
            (&json!(true), &json!(true), &json!(true))
        );
        assert_eq!(host["PortBindings"], json!({"80/udp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}));
        assert_eq!(body["Entrypoint"], json!([""]));
        assert_eq!(host["Binds"], json!(["/a:/b:ro"]));
        assert_eq!((&host["Memory"], &host["NanoCpus"]), (&json!(64 << 20), &json!(1_500_000_000)));
        assert_eq!(host["NetworkMode"], json!("mine"));
        assert_eq!(body["NetworkingConfig"]["EndpointsConfig"]["mine"]["Aliases"], json!(["db"]));
        assert_eq!(host["RestartPolicy"], json!({"Name": "on-failure", "MaximumRetryCount": 3}));
        assert_eq!(host["Ulimits"], json!([{"Name": "nofile", "Soft": 1, "Hard": 2}]));
        assert_eq!(body["Healthcheck"]["Interval"], json!(5_000_000_000_i64));
        assert_eq!((&host["OomScoreAdj"], &host["Init"]), (&json!(-5), &json!(true)));
        assert_eq!((&host["MaskedPaths"], &host["ReadonlyPaths"]), (&json!([]), &json!([])));
        assert_eq!(host["Mounts"], json!([{"Target": "/t", "Type": "tmpfs"}]));
        assert_eq!(host["LogConfig"], json!({"Type": "none", "Config": {}}));
        assert_eq!(body["StopTimeout"], json!(3));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (words, part) in [
            (&["--link", "a", "x"][..], "--link"),
            (&["--gpus", "some", "x"], "invalid count"),
            (&["--rm", "--restart", "always", "x"], "both --restart and --rm"),
            (&["-p", "a:b:c:d", "x"], "invalid IP address"),
            (&["-v", "a:b", "x"], "must be absolute"),
        ] {
            let args: CreateArgs = parse_for_test(words).unwrap();
            let streams = Streams { input: false, output: true, errors: true };
            let error = body(&args, streams, false).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
        for words in [
            &["-m", "x", "i"][..],
            &["--pull", "x", "i"],
            &["--cpus", "x", "i"],
            &["--dns", "x", "i"],
            &["--cgroupns", "x", "i"],
        ] {
            assert!(parse_for_test::<CreateArgs>(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn streams_are_chosen_as_docker_chooses() {
        let streams = |attach: &[&str], interactive, detach| {
            let attach: Vec<String> = attach.iter().map(|name| (*name).to_owned()).collect();
            Streams::chosen(&attach, interactive, detach).map(|s| (s.input, s.output, s.errors))
        };
        assert_eq!(streams(&[], false, false), Ok((false, true, true)));
        assert_eq!(streams(&[], true, false), Ok((true, true, true)));
        assert_eq!(streams(&["STDERR"], true, false), Ok((false, false, true)));
        assert_eq!(streams(&[], true, true), Ok((false, false, false)));
        assert!(streams(&["stdout"], false, true).is_err() && streams(&["x"], false, false).is_err());
    }
}
