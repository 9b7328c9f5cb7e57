//! `basalt policy`: the rules in force with this configuration, and why one says what it says.

use std::collections::BTreeMap;
use std::io::{Write, stdout};

use rest::RequestContext;
use rest::policy::{Policy, PolicyOptions, Source};
use serde_json::{Value, json};

use super::table;
use crate::config::policy::policy_options;
use crate::config::{Config, ConfigError};
use crate::error::{Error, Result};

/// Whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Service {
    Volume,
    Image,
}

/// Who asks, about what.
#[derive(Debug, clap::Args)]
pub struct Question {
    /// Name of the rule, such as volume:create.
    rule: String,
    /// Whose rule it is, where both services have one of this name.
    #[arg(long, value_enum)]
    service: Option<Service>,
    /// Roles of the caller.
    #[arg(long, value_delimiter = ',', value_name = "ROLE,…")]
    roles: Vec<String>,
    /// Id of the caller's project.
    #[arg(long, value_name = "ID")]
    project: Option<String>,
    /// Id of the caller.
    #[arg(long, value_name = "ID", default_value = "user")]
    user: String,
    /// The caller's token is scoped to the system.
    #[arg(long, conflicts_with = "project")]
    system: bool,
    /// Roles of a service token beside the caller's.
    #[arg(long, value_delimiter = ',', value_name = "ROLE,…")]
    service_roles: Vec<String>,
    /// A field of the target, such as project_id=ID or visibility=public; without any, it is the
    /// caller's own.
    #[arg(long, value_name = "FIELD=VALUE", value_parser = field)]
    target: Vec<(String, String)>,
}

fn field(text: &str) -> std::result::Result<(String, String), String> {
    let pair = text.split_once('=');
    pair.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "must be field=value".to_owned())
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Service::Volume => "volume",
            Service::Image => "image",
        }
    }

    fn policy(self, options: &PolicyOptions) -> Result<Policy> {
        let policy = match self {
            Service::Volume => volume_service::api::policy_rules::default_policy(),
            Service::Image => image_service::policy::default_policy(),
        };
        configure(&policy, options.clone())?;
        Ok(policy)
    }
}

/// Puts the rules of the configuration's files into force.
pub fn configure(policy: &Policy, options: PolicyOptions) -> Result<()> {
    let configured = policy.configure(options);
    Ok(configured
        .map_err(|error| ConfigError::option("oslo_policy", "policy_file", error.to_string()))?)
}

fn policies(config: &Config, wanted: Option<Service>) -> Result<Vec<(Service, Policy)>> {
    let options = policy_options(config)?;
    [Service::Volume, Service::Image]
        .into_iter()
        .filter(|service| wanted.is_none_or(|wanted| wanted == *service))
        .map(|service| Ok((service, service.policy(&options)?)))
        .collect()
}

/// Prints every rule, where it comes from and what it says.
pub fn list(config: &Config, service: Option<Service>, as_json: bool) -> Result<()> {
    let mut rows = Vec::new();
    for (service, policy) in policies(config, service)? {
        rows.extend(policy.list().into_iter().map(|rule| {
            let source = match rule.source {
                Source::Default => "default".to_owned(),
                Source::File(path) => path,
            };
            [service.name().to_owned(), rule.name, source, rule.check]
        }));
    }
    let mut output = stdout().lock();
    if as_json {
        let object = |[service, rule, source, check]: &[String; 4]| -> Value {
            json!({ "service": service, "rule": rule, "source": source, "check": check })
        };
        let rules: Vec<_> = rows.iter().map(object).collect();
        return Ok(writeln!(output, "{:#}", Value::from(rules))?);
    }
    Ok(table::print(
        &mut output,
        ["SERVICE", "RULE", "SOURCE", "CHECK"],
        &rows,
    )?)
}

/// Prints the rule's answer with the answer of each of its parts.
///
/// Errors: [`Error::Refused`] after printing, where it refuses.
pub fn check(config: &Config, question: Question) -> Result<()> {
    let caller = question.caller();
    let target = question.target(&caller);
    let mut refused = false;
    let mut is_known = false;
    let mut output = stdout().lock();
    for (service, policy) in policies(config, question.service)? {
        let Some(explanation) = policy.explain(&caller, &question.rule, &target) else {
            continue;
        };
        is_known = true;
        refused |= !explanation.allowed;
        let answer = if explanation.allowed {
            "allowed"
        } else {
            "refused"
        };
        writeln!(output, "{} {}: {answer}", service.name(), question.rule)?;
        for line in explanation.lines {
            writeln!(output, "  {line}")?;
        }
    }
    match (is_known, refused) {
        (false, _) => Err(Error::Usage(format!(
            "there is no rule {:?}",
            question.rule
        ))),
        (true, true) => Err(Error::Refused),
        (true, false) => Ok(()),
    }
}

impl Question {
    fn caller(&self) -> RequestContext {
        let is_admin = self.roles.iter().any(|role| role == "admin");
        RequestContext {
            project_id: self.project.clone(),
            is_system: self.system,
            roles: self.roles.clone(),
            service_roles: self.service_roles.clone(),
            is_admin,
            ..RequestContext::internal(&self.user, "")
        }
    }

    fn target(&self, caller: &RequestContext) -> BTreeMap<String, String> {
        if !self.target.is_empty() {
            return self.target.iter().cloned().collect();
        }
        let project = caller.project_id.clone();
        let project = project.map(|project| ("project_id".to_owned(), project));
        let user = ("user_id".to_owned(), caller.user_id.clone());
        project.into_iter().chain([user]).collect()
    }
}
