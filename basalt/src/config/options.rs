//! Every option that Basalt reads: the one list behind parsing, checking and the warning about
//! unknown options.
//!
//! Names, sections and defaults are Cinder's and Glance's. What Glance has in its `[DEFAULT]`
//! stands in `[image_api]`, because one file configures both services here.

/// What a value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Never shown in a message.
    Secret,
    /// `true/false`, `yes/no`, `on/off`, `1/0`, in any case.
    Boolean,
    /// Both ends included.
    Integer(i64, i64),
    /// 0 to 65535; 0 takes a free one.
    Port,
    /// Any number.
    Number,
    /// Separated by commas, blanks around the items taken off.
    List,
    /// May be given several times; the values add up.
    MultiText,
    /// One of these.
    Choice(&'static [&'static str]),
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    pub section: &'static str,
    pub name: &'static str,
    pub kind: Kind,
    /// As it would stand in a file; `""`: not set.
    pub default: &'static str,
    pub help: &'static str,
}

/// Stands for each section that `enabled_backends` names; `[backend_defaults]` holds what they
/// share.
pub const BACKEND: &str = "backend_defaults";

const fn option(
    section: &'static str,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> OptionSpec {
    OptionSpec {
        section,
        name,
        kind,
        default,
        help,
    }
}

/// Stands for each store that `[image_api] enabled_backends` names; what a store's section lacks
/// is taken from here.
pub const IMAGE_STORE: &str = "glance_store";

use Kind::{Boolean, Choice, Integer, List, MultiText, Number, Port, Secret, Text};

/// Cinder's "−1 means without limit".
const LIMIT: Kind = Integer(-1, i64::MAX);
const SECONDS: Kind = Integer(0, 31_536_000);
const SECONDS_AT_LEAST_1: Kind = Integer(1, 31_536_000);

/// Every option, by section.
#[rustfmt::skip]
pub const OPTIONS: &[OptionSpec] = &[
    option("DEFAULT", "debug", Boolean, "false", "Log requests, flows and their tasks."),
    option("DEFAULT", "host", Text, "basalt", "Name of this node in the hosts of services and volumes; keep it for as long as the data lives."),
    option("DEFAULT", "transport_url", Secret, "", "rabbit://user:password@host:port/vhost of the message broker; a bus inside the process unless set."),
    option("DEFAULT", "control_exchange", Text, "openstack", "Exchange of the broker that topics live in."),
    option("DEFAULT", "auth_strategy", Choice(&["dev", "noauth", "keystone"]), "dev", "Who may do what: the built-in dev identity says it, or Keystone ([keystone_authtoken]), or nobody is asked (noauth)."),
    option("DEFAULT", "graceful_shutdown_timeout", SECONDS, "10", "Seconds that a stop waits for requests and flows; what still runs then is resumed by the next start."),
    option("DEFAULT", "osapi_volume_listen", Text, "127.0.0.1", "Address of the volume API."),
    option("DEFAULT", "osapi_volume_listen_port", Port, "8776", "Port of the volume API."),
    option("DEFAULT", "public_endpoint", Text, "", "URL of the volume API for links and the catalogue; as the request says unless set."),
    option("DEFAULT", "osapi_max_limit", Integer(1, 1_000_000), "1000", "Most items in one answer of a volume API list."),
    option("DEFAULT", "storage_availability_zone", Text, "nova", "Availability zone of this node."),
    option("DEFAULT", "default_availability_zone", Text, "", "Zone of new volumes; the node's unless set."),
    option("DEFAULT", "allow_availability_zone_fallback", Boolean, "false", "Take the default zone where the asked one is unknown."),
    option("DEFAULT", "cloned_volume_same_az", Boolean, "true", "A copy of a volume or snapshot stays in the zone of its source."),
    option("DEFAULT", "default_group_type", Text, "", "Group type that group_types/default shows."),
    option("DEFAULT", "volume_usage_audit_period", Text, "month", "Period of basalt volume usage-audit: hour, day, month or year, and after an @ when it begins."),
    option("DEFAULT", "default_volume_type", Text, "__DEFAULT__", "Type of volumes that ask for none."),
    option("DEFAULT", "enabled_backends", List, "basalt", "Sections that each describe a backend."),
    option("DEFAULT", "cluster", Text, "", "Cluster that this node's backends belong to: its nodes have the same backends, and go on with each other's work; none unless set."),
    option("DEFAULT", "flow_lease_time", Integer(1, 3_600), "30", "Seconds after which others go on with the work of a process that is silent; the same on all nodes."),
    option("DEFAULT", "scheduler_default_filters", List, "AvailabilityZoneFilter,CapacityFilter,CapabilitiesFilter,DifferentBackendFilter,SameBackendFilter,DriverFilter,RetryFilter", "Filters that a pool must pass to take a volume. Others: InstanceLocalityFilter, JsonFilter."),
    option("DEFAULT", "scheduler_default_weighers", List, "CapacityWeigher,GoodnessWeigher", "Weighers that choose among the pools. Others: AllocatedCapacityWeigher, VolumeNumberWeigher."),
    option("DEFAULT", "scheduler_max_attempts", Integer(1, 1000), "3", "Pools that the creation of a volume is tried on."),
    option("DEFAULT", "capacity_weight_multiplier", Number, "1.0", "Weight of the room that is left; below 0 fills one pool after another."),
    option("DEFAULT", "allocated_capacity_weight_multiplier", Number, "-1.0", "Weight of the GiB that were placed on a pool."),
    option("DEFAULT", "volume_number_multiplier", Number, "-1.0", "Weight of the number of volumes on a pool."),
    option("DEFAULT", "enable_force_upload", Boolean, "false", "Let a volume in use be uploaded to an image with force."),
    option("DEFAULT", "glance_api_servers", List, "", "URL of the image API; the built-in one unless set."),
    option("DEFAULT", "glance_ca_certificates_file", Text, "", "Authorities that sign the image API's certificate; the system's unless set."),
    option("DEFAULT", "glance_certfile", Text, "", "Certificate to show to the image API."),
    option("DEFAULT", "glance_keyfile", Text, "", "Key of glance_certfile."),
    option("DEFAULT", "glance_api_insecure", Boolean, "false", "Believe any certificate of the image API."),
    option("DEFAULT", "osapi_max_request_body_size", Integer(0, 1_073_741_824), "0", "Old name of [oslo_middleware] max_request_body_size; 0 leaves it to that."),
    option("DEFAULT", "client_socket_timeout", Integer(1, 86_400), "60", "Seconds that an API waits for a client: for the next request, its headers, the next piece of a body, or to take the answer."),
    option("DEFAULT", "wsgi_default_pool_size", Integer(1, 1_000_000), "4096", "Connections of an API at once; more wait."),
    option("DEFAULT", "max_header_line", Integer(1024, 1_048_576), "65536", "Bytes of a request's line and headers together."),
    option("DEFAULT", "quota_volumes", LIMIT, "10", "Volumes of a project."),
    option("DEFAULT", "quota_snapshots", LIMIT, "10", "Snapshots of a project."),
    option("DEFAULT", "quota_gigabytes", LIMIT, "1000", "GiB of a project's volumes and snapshots."),
    option("DEFAULT", "quota_backups", LIMIT, "10", "Backups of a project."),
    option("DEFAULT", "quota_backup_gigabytes", LIMIT, "1000", "GiB of a project's backups."),
    option("DEFAULT", "quota_groups", LIMIT, "10", "Groups of a project."),
    option("DEFAULT", "per_volume_size_limit", LIMIT, "-1", "Most GiB of one volume."),
    option("DEFAULT", "no_snapshot_gb_quota", Boolean, "false", "Snapshots do not count for gigabytes."),
    option("DEFAULT", "service_down_time", Integer(1, 86_400), "60", "Seconds without a sign of life after which a service is down."),
    option("DEFAULT", "backup_ceph_conf", Text, "", "Configuration of the Ceph cluster that keeps backups; they lie in the embedded store unless set."),
    option("DEFAULT", "backup_ceph_user", Text, "cinder", "Ceph user of backups."),
    option("DEFAULT", "backup_ceph_pool", Text, "backups", "Pool of the store that keeps backups."),
    option("DEFAULT", "backup_ceph_max_snapshots", Integer(0, 1_000_000), "0", "Backup snapshots that a volume keeps; 0 keeps all."),
    option("oslo_messaging_rabbit", "amqp_durable_queues", Boolean, "false", "Queues of topics survive a restart of the broker."),
    option("oslo_messaging_rabbit", "amqp_auto_delete", Boolean, "false", "Queues of topics go with their last user."),
    option("oslo_messaging_rabbit", "rabbit_quorum_queue", Boolean, "false", "Queues of topics are replicated."),
    option("oslo_messaging_rabbit", "rabbit_transient_quorum_queue", Boolean, "false", "Reply and fanout queues are replicated, too."),
    option("oslo_messaging_rabbit", "rabbit_transient_queues_ttl", Integer(1, 2_147_483), "1800", "Seconds for which the broker keeps unused reply and fanout queues."),
    option("oslo_messaging_rabbit", "heartbeat_timeout_threshold", Integer(0, 65_535), "60", "Seconds of silence after which the broker counts as gone."),
    option("oslo_messaging_rabbit", "ssl", Boolean, "false", "The message broker is spoken to in TLS."),
    option("oslo_messaging_rabbit", "ssl_ca_file", Text, "", "PEM file of the authorities that are trusted with the broker's certificate; the system's unless set."),
    option("oslo_messaging_rabbit", "ssl_cert_file", Text, "", "PEM file of the certificate that is shown to the broker."),
    option("oslo_messaging_rabbit", "ssl_key_file", Text, "", "PEM file of its key; in the certificate's file unless set."),
    option("oslo_messaging_rabbit", "rabbit_retry_interval", Integer(1, 3_600), "1", "Seconds before the second try to connect."),
    option("oslo_messaging_rabbit", "rabbit_retry_backoff", Integer(1, 100), "2", "Factor of the pause with every further try."),
    option("oslo_messaging_rabbit", "rabbit_interval_max", Integer(1, 3_600), "30", "Seconds between two tries to connect, at most."),
    option("oslo_messaging_notifications", "driver", MultiText, "", "How others are told of what happens: messagingv2, messaging, log; nobody is unless set."),
    option("oslo_messaging_notifications", "transport_url", Secret, "", "Message broker of notifications; that of the calls unless set."),
    option("oslo_messaging_notifications", "topics", List, "notifications", "Topics that notifications are sent to."),
    option("oslo_messaging_notifications", "retry", Integer(-1, 1_000_000), "-1", "Tries after the first; -1 never gives up."),
    option("database", "connection", Secret, "", "sqlite:///path; DIR/basalt.sqlite unless set."),
    option(BACKEND, "volume_driver", Text, "basalt", "Where volumes lie: basalt (the embedded store), or cinder.volume.drivers.rbd.RBDDriver (a Ceph cluster)."),
    option(BACKEND, "volume_backend_name", Text, "", "What a type's volume_backend_name asks for; the section's name unless set."),
    option(BACKEND, "rbd_pool", Text, "volumes", "Pool of the store that keeps volumes."),
    option(BACKEND, "rbd_ceph_conf", Text, "", "Configuration of the Ceph cluster; /etc/ceph/CLUSTER.conf unless set."),
    option(BACKEND, "rbd_cluster_name", Text, "ceph", "Name of the Ceph cluster, as in the names of its configuration and keyrings."),
    option(BACKEND, "rbd_user", Text, "", "Ceph user of this service, and of the hosts that attach; admin, and attaching without authentication, unless set."),
    option(BACKEND, "rbd_secret_uuid", Text, "", "libvirt secret that holds the user's key; the cluster's fsid unless set."),
    option(BACKEND, "rbd_store_chunk_size", Integer(1, 32), "4", "MiB of the objects that new volumes are made of, a power of two."),
    option(BACKEND, "rbd_concurrent_flatten_operations", Integer(1, 64), "3", "Clones of the cluster that are flattened at once."),
    option(BACKEND, "rados_connect_timeout", Integer(-1, 86_400), "-1", "Seconds that connecting to the cluster may take; 60 where below 1."),
    option(BACKEND, "rados_connection_retries", Integer(0, 1000), "3", "Further tries to connect to the cluster at the start."),
    option(BACKEND, "rados_connection_interval", SECONDS, "5", "Seconds between two tries."),
    option(BACKEND, "enable_deferred_deletion", Boolean, "false", "Deleted volumes go to the pool's trash."),
    option(BACKEND, "deferred_deletion_delay", SECONDS, "0", "Seconds that they stay there."),
    option(BACKEND, "deferred_deletion_purge_interval", SECONDS_AT_LEAST_1, "60", "Seconds between two looks for what may go from the trash."),
    option(BACKEND, "rbd_max_clone_depth", Integer(0, 64), "5", "Clones on top of each other before one is flattened; 0 copies."),
    option(BACKEND, "rbd_flatten_volume_from_snapshot", Boolean, "false", "Flatten a volume as soon as it is made from a snapshot."),
    option(BACKEND, "reserved_percentage", Integer(0, 100), "0", "Per cent of the capacity kept free."),
    option(BACKEND, "max_over_subscription_ratio", Text, "20.0", "How many times the capacity may be promised: a number of at least 1, or auto, which goes by what volumes use."),
    option(BACKEND, "backend_availability_zone", Text, "", "Availability zone of the backend; the node's unless set."),
    option(BACKEND, "filter_function", Text, "", "Whether the backend takes a volume, as an expression: volume.size < 100 and capabilities.total_volumes < 500."),
    option(BACKEND, "goodness_function", Text, "", "How well the backend suits a volume, as an expression that comes to 0 to 100."),
    option(BACKEND, "basalt_store_dir", Text, "", "Folder of a store of its own for the backend, as seen from the data folder; a pool of the node's store unless set."),
    option("image_api", "bind_host", Text, "127.0.0.1", "Glance's [DEFAULT] bind_host: address of the image API."),
    option("image_api", "bind_port", Port, "9292", "Glance's [DEFAULT] bind_port: port of the image API."),
    option("image_api", "public_endpoint", Text, "", "URL of the image API for links and the catalogue; as the request says unless set."),
    option("image_api", "control_exchange", Text, "glance", "Glance's [DEFAULT] control_exchange: exchange of the broker for notifications of the image API."),
    option("image_api", "default_publisher_id", Text, "image.localhost", "Publisher of the notifications of the image API."),
    option("image_api", "image_size_cap", Integer(1, i64::MAX), "1099511627776", "Bytes of the biggest image."),
    option("image_api", "image_property_quota", LIMIT, "128", "Properties of one image."),
    option("image_api", "image_tag_quota", LIMIT, "128", "Tags of one image."),
    option("image_api", "image_member_quota", LIMIT, "128", "Members of one image."),
    option("image_api", "user_storage_quota", Text, "0", "Image data of a project: a number with B, KB, MB, GB or TB; 0 is any amount."),
    option("image_api", "use_keystone_limits", Boolean, "false", "Take the next four limits of each project from Keystone, as [oslo_limit] says."),
    option("image_api", "image_size_total", LIMIT, "-1", "MiB of image data of a project, as the registered limit of that name; -1 is any amount."),
    option("image_api", "image_stage_total", LIMIT, "-1", "MiB of staged data of a project."),
    option("image_api", "image_count_total", LIMIT, "-1", "Images of a project."),
    option("image_api", "image_count_uploading", LIMIT, "-1", "Images of a project that receive data at the same time."),
    option("image_api", "image_cache_dir", Text, "", "Folder for this node's copies of images; without it there is no image cache."),
    option("image_api", "image_cache_max_size", Integer(0, i64::MAX), "10737418240", "Most bytes of the image cache."),
    option("image_api", "limit_param_default", Integer(1, 1_000_000), "25", "Items in a list that asks for no limit."),
    option("image_api", "api_limit_max", Integer(1, 1_000_000), "1000", "Most items in one answer of an image API list."),
    option("image_api", "show_image_direct_url", Boolean, "true", "Show where the image lies, as rbd://fsid/pool/image/snap. Glance's default is false."),
    option("image_api", "enabled_backends", List, "", "Glance's [DEFAULT] enabled_backends: stores as id:type with a section each; the types are rbd and http. One store without an id unless set."),
    option("image_api", "enabled_import_methods", Text, "[glance-direct,web-download,copy-image,glance-download]", "How data may be imported."),
    option("image_api", "image_location_quota", LIMIT, "10", "Locations of one image."),
    option("image_api", "do_secure_hash", Boolean, "true", "Hash the data of a location that is added."),
    option("image_api", "http_retries", Integer(0, 100), "3", "How often reading the data of an added location is tried again."),
    option("image_api", "show_multiple_locations", Boolean, "false", "Show all locations of an image."),
    option("image_format", "container_formats", List, "ami,ari,aki,bare,ovf,ova,docker,compressed", "Container formats that images may have."),
    option("image_format", "disk_formats", List, "ami,ari,aki,vhd,vhdx,vmdk,raw,qcow2,vdi,iso,ploop", "Disk formats that images may have."),
    option("image_format", "require_image_format_match", Boolean, "true", "Refuse data that is not in the declared format."),
    option("image_format", "gpt_safety_checks_nonfatal", List, "", "Safety checks of GUID partition tables that only warn: mbr, gptmbr."),
    option("import_filtering_opts", "allowed_schemes", List, "http,https", "Schemes of URLs that are fetched for users; where this is empty, all but the disallowed ones."),
    option("import_filtering_opts", "disallowed_schemes", List, "", "Schemes of URLs that are not fetched."),
    option("import_filtering_opts", "allowed_hosts", List, "", "Hosts that are fetched from, also ones on this machine; where this is empty, all but the disallowed ones."),
    option("import_filtering_opts", "disallowed_hosts", List, "", "Hosts and addresses that are not fetched from."),
    option("import_filtering_opts", "allowed_ports", List, "80,443", "Ports that a URL may name; where this is empty, all but the disallowed ones."),
    option("import_filtering_opts", "disallowed_ports", List, "", "Ports that a URL may not name."),
    option("glance_download_properties", "extra_properties", Text, "[hw_,trait:,os_distro,os_secure_boot,os_type]", "Beginnings of the names of properties that glance-download takes over."),
    option("image_import_opts", "image_import_plugins", Text, "[no_op]", "What is done with the data of every import: image_decompression, image_conversion, inject_image_metadata."),
    option("image_conversion", "output_format", Choice(&["raw", "qcow2", "vmdk"]), "raw", "The disk format that image_conversion converts to."),
    option("inject_metadata_properties", "ignore_user_roles", List, "admin", "Roles whose users import without injected properties."),
    option("inject_metadata_properties", "inject", List, "", "Properties that inject_image_metadata gives to images, as name:value."),
    option("task", "task_time_to_live", Integer(1, 87_600), "48", "Hours that an ended import can be seen."),
    option("os_glance_staging_store", "rbd_store_pool", Text, "images-staging", "Pool of the store that keeps staged data until it is imported."),
    option(IMAGE_STORE, "default_backend", Text, "", "Id of the store for requests that name none; the first one unless set."),
    option(IMAGE_STORE, "rbd_store_pool", Text, "images", "Pool of the store that keeps images; each store needs one of its own."),
    option(IMAGE_STORE, "rbd_store_ceph_conf", Text, "", "Configuration of the Ceph cluster that keeps the store's images; they lie in the embedded store unless set."),
    option(IMAGE_STORE, "rbd_store_user", Text, "", "Ceph user of the store; admin unless set."),
    option(IMAGE_STORE, "rados_connect_timeout", Integer(-1, 86_400), "-1", "Seconds that connecting to the cluster may take; 60 where below 1."),
    option(IMAGE_STORE, "rbd_store_chunk_size", Integer(1, 32), "8", "MiB that an upload writes, and a download reads, at a time; on Ceph also of the objects that new images are made of, a power of two."),
    option(IMAGE_STORE, "store_description", Text, "", "What users read about the store."),
    option(IMAGE_STORE, "weight", Integer(-2_147_483_648, 2_147_483_647), "0", "Data is read from the store of the highest weight first."),
    option("dev_identity", "bind_host", Text, "127.0.0.1", "Address of the dev identity."),
    option("dev_identity", "bind_port", Port, "5000", "Port of the dev identity."),
    option("dev_identity", "region", Text, "RegionOne", "Region of the catalogue."),
    option("dev_identity", "token_expiration", Integer(3600, 86_400), "43200", "Seconds that a token lives."),
    option("dev_identity", "user", MultiText, "", "One more user, as name:password:project:role[,role]."),
    option("keystone_authtoken", "www_authenticate_uri", Text, "", "Where clients are told to log in; auth_url unless set."),
    option("keystone_authtoken", "auth_type", Choice(&["", "password", "v3password", "v3applicationcredential"]), "password", "How to log in to Keystone."),
    option("keystone_authtoken", "auth_url", Text, "", "URL of Keystone, with or without /v3."),
    option("keystone_authtoken", "username", Text, "", "Name of the service user."),
    option("keystone_authtoken", "user_id", Text, "", "Its id, instead of the name and its domain."),
    option("keystone_authtoken", "user_domain_id", Text, "", "Domain of the user; default where neither id nor name is set."),
    option("keystone_authtoken", "user_domain_name", Text, "", "Name of that domain."),
    option("keystone_authtoken", "password", Secret, "", "Password of the service user."),
    option("keystone_authtoken", "project_id", Text, "", "Project to log in to."),
    option("keystone_authtoken", "project_name", Text, "", "Its name, instead of the id."),
    option("keystone_authtoken", "project_domain_id", Text, "", "Domain of the project; default where neither id nor name is set."),
    option("keystone_authtoken", "project_domain_name", Text, "", "Name of that domain."),
    option("keystone_authtoken", "domain_id", Text, "", "Domain to log in to, instead of a project."),
    option("keystone_authtoken", "domain_name", Text, "", "Name of that domain."),
    option("keystone_authtoken", "system_scope", Choice(&["", "all"]), "", "Log in to the system, instead of a project."),
    option("keystone_authtoken", "application_credential_id", Text, "", "Id of the application credential."),
    option("keystone_authtoken", "application_credential_name", Text, "", "Its name and user, instead of the id."),
    option("keystone_authtoken", "application_credential_secret", Secret, "", "Its secret."),
    option("keystone_authtoken", "cafile", Text, "", "Authorities that sign Keystone's certificate; the system's unless set."),
    option("keystone_authtoken", "certfile", Text, "", "Certificate to show to Keystone."),
    option("keystone_authtoken", "keyfile", Text, "", "Key of certfile."),
    option("keystone_authtoken", "insecure", Boolean, "false", "Believe any certificate of Keystone."),
    option("keystone_authtoken", "http_connect_timeout", Integer(1, 3600), "60", "Seconds for an answer of Keystone."),
    option("keystone_authtoken", "http_request_max_retries", Integer(0, 100), "3", "Further tries where Keystone takes no connection."),
    option("keystone_authtoken", "token_cache_time", Integer(-1, 86_400), "300", "Seconds that a validation counts, so that a revocation may take so long; -1 asks each time."),
    option("keystone_authtoken", "service_token_roles", List, "service", "Roles of which one makes an X-Service-Token a service's."),
    option("keystone_authtoken", "service_token_roles_required", Boolean, "true", "Refuse a service token without such a role."),
    option("service_user", "auth_type", Choice(&["", "password", "v3password", "v3applicationcredential"]), "", "How to log in to Keystone. Unset: [keystone_authtoken] is used."),
    option("service_user", "auth_url", Text, "", "URL of Keystone, with or without /v3."),
    option("service_user", "username", Text, "", "Name of the service user."),
    option("service_user", "user_id", Text, "", "Its id, instead of the name and its domain."),
    option("service_user", "user_domain_id", Text, "", "Domain of the user; default where neither id nor name is set."),
    option("service_user", "user_domain_name", Text, "", "Name of that domain."),
    option("service_user", "password", Secret, "", "Password of the service user."),
    option("service_user", "project_id", Text, "", "Project to log in to."),
    option("service_user", "project_name", Text, "", "Its name, instead of the id."),
    option("service_user", "project_domain_id", Text, "", "Domain of the project; default where neither id nor name is set."),
    option("service_user", "project_domain_name", Text, "", "Name of that domain."),
    option("service_user", "domain_id", Text, "", "Domain to log in to, instead of a project."),
    option("service_user", "domain_name", Text, "", "Name of that domain."),
    option("service_user", "system_scope", Choice(&["", "all"]), "", "Log in to the system, instead of a project."),
    option("service_user", "application_credential_id", Text, "", "Id of the application credential."),
    option("service_user", "application_credential_name", Text, "", "Its name and user, instead of the id."),
    option("service_user", "application_credential_secret", Secret, "", "Its secret."),
    option("service_user", "cafile", Text, "", "Authorities that sign Keystone's certificate; the system's unless set."),
    option("service_user", "certfile", Text, "", "Certificate to show to Keystone."),
    option("service_user", "keyfile", Text, "", "Key of certfile."),
    option("service_user", "insecure", Boolean, "false", "Believe any certificate of Keystone."),
    option("oslo_limit", "auth_type", Choice(&["", "password", "v3password", "v3applicationcredential"]), "password", "How to log in to Keystone, for use_keystone_limits."),
    option("oslo_limit", "auth_url", Text, "", "URL of Keystone, with or without /v3."),
    option("oslo_limit", "username", Text, "", "Name of the service user."),
    option("oslo_limit", "user_id", Text, "", "Its id, instead of the name and its domain."),
    option("oslo_limit", "user_domain_id", Text, "", "Domain of the user; default where neither id nor name is set."),
    option("oslo_limit", "user_domain_name", Text, "", "Name of that domain."),
    option("oslo_limit", "password", Secret, "", "Password of the service user."),
    option("oslo_limit", "project_id", Text, "", "Project to log in to."),
    option("oslo_limit", "project_name", Text, "", "Its name, instead of the id."),
    option("oslo_limit", "project_domain_id", Text, "", "Domain of the project; default where neither id nor name is set."),
    option("oslo_limit", "project_domain_name", Text, "", "Name of that domain."),
    option("oslo_limit", "domain_id", Text, "", "Domain to log in to, instead of a project."),
    option("oslo_limit", "domain_name", Text, "", "Name of that domain."),
    option("oslo_limit", "system_scope", Choice(&["", "all"]), "", "Log in to the system, instead of a project."),
    option("oslo_limit", "application_credential_id", Text, "", "Id of the application credential."),
    option("oslo_limit", "application_credential_name", Text, "", "Its name and user, instead of the id."),
    option("oslo_limit", "application_credential_secret", Secret, "", "Its secret."),
    option("oslo_limit", "cafile", Text, "", "Authorities that sign Keystone's certificate; the system's unless set."),
    option("oslo_limit", "certfile", Text, "", "Certificate to show to Keystone."),
    option("oslo_limit", "keyfile", Text, "", "Key of certfile."),
    option("oslo_limit", "insecure", Boolean, "false", "Believe any certificate of Keystone."),
    option("oslo_limit", "endpoint_id", Text, "", "The image API's endpoint, which limits are registered for."),
    option("oslo_limit", "endpoint_service_type", Text, "", "Type of its service, where the id is not set."),
    option("oslo_limit", "endpoint_service_name", Text, "", "Name of its service, where the id is not set."),
    option("oslo_limit", "endpoint_region_name", Text, "", "Its region, where the id is not set."),
    option("oslo_limit", "endpoint_interface", Choice(&["public", "publicURL", "internal", "internalURL", "admin", "adminURL"]), "publicURL", "Its interface, where the id is not set."),
    option("oslo_policy", "policy_file", Text, "policy.yaml", "Rules that replace defaults, beside the configuration file unless absolute; read again when it changes."),
    option("oslo_policy", "policy_dirs", MultiText, "policy.d", "Folders with more such files."),
    option("oslo_policy", "enforce_scope", Boolean, "true", "Refuse tokens of a scope that a rule is not for."),
    option("oslo_policy", "enforce_new_defaults", Boolean, "true", "Leave out what the defaults admitted before the roles reader and member."),
    option("oslo_middleware", "max_request_body_size", Integer(1, 1_073_741_824), "114688", "Most bytes of a request to the volume API."),
    option("cors", "allowed_origin", List, "", "Origins (scheme://host:port) of web pages that may use both APIs from a browser, as Horizon for direct uploads; * is all of them, none unless set."),
    option("cors", "allow_credentials", Boolean, "true", "Such requests may carry the browser's credentials."),
    option("cors", "expose_headers", List, "", "Headers of answers that pages may read; each service's own unless set."),
    option("cors", "max_age", Integer(0, 31_536_000), "3600", "Seconds for which a browser remembers what it may; 0 says nothing about it."),
    option("cors", "allow_methods", List, "", "Methods that pages may use; each service's own unless set."),
    option("cors", "allow_headers", List, "", "Headers that requests of pages may have; each service's own unless set."),
    option("healthcheck", "disable_by_file_path", Text, "", "While this file is there, /healthcheck answers 503."),
    option("nova", "endpoint_override", Text, "", "URL of the compute API, with its version. Set it wherever there is Nova: it is asked before a user deletes a server's attachment, and told of extended and re-imaged volumes."),
    option("nova", "cafile", Text, "", "Authorities that sign the compute API's certificate; the system's unless set."),
    option("nova", "certfile", Text, "", "Certificate to show to the compute API."),
    option("nova", "keyfile", Text, "", "Key of certfile."),
    option("nova", "insecure", Boolean, "false", "Believe any certificate of the compute API."),
    option("key_manager", "backend", Choice(KEY_MANAGERS), "barbican", "Where the keys of encrypted volumes are: in Barbican, or one fixed key for all of them (for tests)."),
    option("key_manager", "fixed_key", Secret, "", "The fixed key, in hexadecimal digits."),
    option("barbican", "barbican_endpoint", Text, "", "URL of the key manager API. Without it, volumes of encrypted types are refused."),
    option("barbican", "verify_ssl", Boolean, "true", "Believe no certificate of Barbican that is not signed by a known authority."),
    option("barbican", "verify_ssl_path", Text, "", "Authorities that sign Barbican's certificate; the system's unless set."),
    option("store", "map_cache_mib", Integer(16, 1_048_576), "256", "Memory for the maps of images, for each store; what does not fit is read from the disk again."),
    option("nbd", "unix_socket", Text, "", "Path of the NBD socket; DIR/nbd.sock unless set."),
    option("nbd", "tcp_listen", Text, "", "address:port that serves NBD as well."),
    option("nbd", "unix_access", Choice(&["open", "attached"]), "open", "Who opens the socket (it is this user's alone) reads and writes every volume, or only with the name that an attachment was given."),
    option("nbd", "tcp_access", Choice(&["attached", "open"]), "attached", "The same for TCP: open lets everybody who reaches the port read and write every volume."),
    option("nbd", "tls_x509_cert_dir", Text, "", "Folder with server-cert.pem, server-key.pem, ca-cert.pem and maybe ca-crl.pem, as for QEMU: TCP then takes TLS only."),
    option("nbd", "tls_x509_verify", Boolean, "true", "Clients must show a certificate that ca-cert.pem has signed."),
    option("nbd", "tls_verify_host", Boolean, "false", "The common name of a client's certificate must be the host that its volume is attached to."),
    option("nbd", "max_connections", Integer(1, 65_536), "128", "Connections at once on each of socket and TCP; a connection keeps at most 32 MiB."),
    option("nbd", "stall_timeout", SECONDS_AT_LEAST_1, "300", "Seconds after which a client is cut off that stops in the middle of a request or does not take its replies."),
    option("nbd", "idle_timeout", SECONDS, "0", "Seconds after which a client is cut off that asks for nothing; 0: never."),
];

/// Names of [key_manager] backend: Barbican's and the fixed key's, by their short and their class names.
pub const KEY_MANAGERS: &[&str] = &[
    "barbican",
    "castellan.key_manager.barbican_key_manager.BarbicanKeyManager",
    FIXED_KEY_MANAGER,
];
pub const FIXED_KEY_MANAGER: &str = "cinder.keymgr.conf_key_mgr.ConfKeyManager";

/// Options of the Python services that mean nothing here, and why.
pub const UNUSED: &[(&str, &str, &str)] = &[
    ("keystone_authtoken", "memcached_servers", CACHE),
    ("keystone_authtoken", "memcache_security_strategy", CACHE),
    ("keystone_authtoken", "memcache_secret_key", CACHE),
    (
        "keystone_authtoken",
        "auth_version",
        "only the Identity API v3 is spoken",
    ),
    ("keystone_authtoken", "interface", AT_AUTH_URL),
    ("keystone_authtoken", "region_name", AT_AUTH_URL),
    (
        "keystone_authtoken",
        "include_service_catalog",
        "the catalogue is not asked for",
    ),
    (
        "keystone_authtoken",
        "delay_auth_decision",
        "requests without a good token are refused",
    ),
    (
        "keystone_authtoken",
        "service_type",
        "tokens bound to access rules are refused",
    ),
    (
        "service_user",
        "send_service_user_token",
        "it is always sent",
    ),
];

const CACHE: &str = "tokens are remembered in the process";
const AT_AUTH_URL: &str = "tokens are validated at auth_url";

/// The option of this name in `section` of the table.
pub fn find(section: &str, name: &str) -> Option<&'static OptionSpec> {
    OPTIONS
        .iter()
        .find(|option| option.section == section && option.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_option_stands_once_and_says_what_it_does() {
        let mut seen = HashSet::new();
        for option in OPTIONS {
            assert!(
                seen.insert((option.section, option.name)),
                "{} twice",
                option.name
            );
            assert!(option.help.ends_with('.'), "{}", option.name);
        }
    }
}
