//! Commands on apps: create, destroy, host names, branch.

use gantry_model::{App, AppName, AuditAction, BaseName, HostName};
use gantry_records::{RecordChange, StoreRecord, destroyed_key};

use crate::rename::free_name;
use crate::{Actor, Admitted, Refusal, find_changeable_app};

/// Longest name of a branch, in bytes.
const BRANCH_MAX: usize = 100;

/// A new app.
#[derive(Debug, Clone)]
pub struct NewApp {
    /// Name of the app.
    pub name: AppName,
    /// Base of the app's builds.
    pub base: Option<BaseName>,
    /// Branch whose pushes deploy; `main` if `None`.
    pub branch: Option<String>,
    /// Host names in addition to the app's own.
    pub hosts: Vec<HostName>,
    /// The highest number of a job so far; `None` if the queue is away.
    pub newest_job: Option<u64>,
}

/// A change of an app's host names.
#[derive(Debug, Clone, Default)]
pub struct HostChange {
    /// Host names to add.
    pub add: Vec<HostName>,
    /// Host names to remove.
    pub remove: Vec<HostName>,
}

impl Actor<'_> {
    /// Creates an app. The release numbers of an app that had the name before are not used again.
    ///
    /// # Errors
    /// When the name or a host name is taken, an app of the name is being destroyed, the base is missing, or the branch is invalid.
    pub fn create_app(&self, new: NewApp) -> Admitted<()> {
        match self.records.apps.get(&new.name) {
            Some(app) if app.destroying => return Err(Refusal::AppBeingDestroyed { app: new.name }),
            Some(_) => return Err(Refusal::AppExists { app: new.name }),
            None => {}
        }
        free_name(self.records, &new.name, &new.name)?;
        new.hosts.iter().try_for_each(|host| self.free_host(host))?;
        new.base.iter().try_for_each(|base| self.known_base(base))?;
        let mut app = App::new(new.name.clone(), self.now);
        app.volumes_of = self.free_volume_folder(&new.name)?;
        app.base = new.base;
        add_hosts(&mut app, new.hosts, self.records.policy.max_hosts())?;
        if let Some(branch) = new.branch {
            app.branch = checked_branch(branch)?;
        }
        app.earlier_releases = self.records.earlier_releases(&new.name);
        app.last_release = app.earlier_releases;
        app.earlier_jobs = new.newest_job;
        let event = self.event(Some(&new.name), AuditAction::AppCreated { app: new.name.clone() });
        let mut changes = vec![event, StoreRecord::App(app).into()];
        changes.extend(self.taken_name(&new.name));
        Ok((changes, ()))
    }

    /// Starts to destroy an app. The app's records are removed once none of its copies runs.
    ///
    /// # Errors
    /// When the app is missing or being destroyed already.
    pub fn destroy_app(&self, name: &AppName) -> Admitted<()> {
        let mut app = find_changeable_app(self.records, name)?.clone();
        app.destroying = true;
        self.changed(app, AuditAction::AppDestroyed { app: name.clone() })
    }

    /// Changes the base of an app, from the next push on.
    ///
    /// # Errors
    /// When the app or the base is missing.
    pub fn change_base(&self, name: &AppName, base: BaseName) -> Admitted<()> {
        self.known_base(&base)?;
        let mut app = find_changeable_app(self.records, name)?.clone();
        app.base = Some(base.clone());
        self.changed(app, AuditAction::AppBaseChanged { app: name.clone(), base })
    }

    /// Changes the branch from which an app is deployed, from the next push on.
    ///
    /// # Errors
    /// When the app is missing or the branch is invalid.
    pub fn change_branch(&self, name: &AppName, branch: String) -> Admitted<()> {
        let mut app = find_changeable_app(self.records, name)?.clone();
        app.branch = checked_branch(branch)?;
        let branch = app.branch.clone();
        self.changed(app, AuditAction::AppBranchChanged { app: name.clone(), branch })
    }

    /// Adds and removes host names of an app.
    ///
    /// # Errors
    /// When the app is missing, a host name is taken or unknown, or there would be too many.
    pub fn change_hosts(&self, name: &AppName, change: &HostChange) -> Admitted<()> {
        let known = find_changeable_app(self.records, name)?;
        if change.add.is_empty() && change.remove.is_empty() {
            return Err(Refusal::NoHostChange);
        }
        if let Some(host) = change.remove.iter().find(|host| !known.hosts.contains(host)) {
            return Err(Refusal::HostNotFound { app: name.clone(), host: host.clone() });
        }
        let mut app = known.clone();
        app.hosts.retain(|host| !change.remove.contains(host));
        for host in &change.add {
            if !known.hosts.contains(host) {
                self.free_host(host)?;
            }
        }
        add_hosts(&mut app, change.add.clone(), self.records.policy.max_hosts())?;
        let hosts = app.hosts.clone();
        self.changed(app, AuditAction::AppHostsChanged { app: name.clone(), hosts })
    }

    /// Returns the removal of the record of the app that had the name before: the new app has its last number.
    pub(crate) fn taken_name(&self, name: &AppName) -> Option<RecordChange> {
        self.records.destroyed.contains_key(name).then(|| RecordChange::Remove(destroyed_key(name)))
    }

    /// Returns a folder for the volumes of a new app, or `None` if the folder of its own name is free: a renamed app
    /// keeps the folder of its former name.
    fn free_volume_folder(&self, name: &AppName) -> Result<Option<AppName>, Refusal> {
        let apps = &self.records.apps;
        let is_taken = |folder: &AppName| apps.values().any(|app| app.volume_folder() == folder);
        if !is_taken(name) {
            return Ok(None);
        }
        let others = (2..=apps.len() + 2).filter_map(|number| AppName::parse(&format!("{name}-{number}")).ok());
        let free = others.into_iter().find(|folder| !is_taken(folder) && !apps.contains_key(folder));
        free.map(Some).ok_or_else(|| Refusal::NoVolumeFolder { app: name.clone() })
    }

    /// Refuses a host name that another app has, or that lies below the domain of the apps' own names.
    fn free_host(&self, host: &HostName) -> Result<(), Refusal> {
        if let Some(other) = self.records.apps.values().find(|app| app.hosts.contains(host)) {
            return Err(Refusal::HostTaken { host: host.clone(), app: other.name.clone() });
        }
        let domain = self.records.policy.domain();
        if host.as_str().ends_with(&format!(".{domain}")) {
            return Err(Refusal::HostReserved { host: host.clone(), domain });
        }
        Ok(())
    }
}

/// Adds host names to an app, each once, up to `most`.
fn add_hosts(app: &mut App, hosts: Vec<HostName>, most: u32) -> Result<(), Refusal> {
    let most = most as usize;
    let before = app.hosts.len();
    for host in hosts {
        if !app.hosts.contains(&host) {
            app.hosts.push(host);
        }
    }
    if app.hosts.len() > most.max(before) {
        return Err(Refusal::TooManyHosts { most });
    }
    Ok(())
}

/// Refuses a branch name that git does not allow, or that would read as an option.
fn checked_branch(branch: String) -> Result<String, Refusal> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let good = !branch.is_empty()
        && branch.len() <= BRANCH_MAX
        && branch.chars().all(allowed)
        && !branch.starts_with(['-', '.', '/'])
        && !branch.ends_with(['.', '/'])
        && !branch.contains("..")
        && !branch.contains("//");
    if good { Ok(branch) } else { Err(Refusal::InvalidBranch { branch }) }
}
