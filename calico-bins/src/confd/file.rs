//! The files that BIRD reads: replaced at once, only when they changed, checked before and announced after.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use calico_bgp::bird::{BirdSettings, Dialect, render};
use calico_bgp::config::SpeakerConfig;
use calico_bgp::wire::Family;

use super::settings::{Bird, Settings};

/// A file and for which BIRD it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Name within the directory.
    pub name: &'static str,
    /// Whose grammar.
    pub dialect: Dialect,
}

impl Bird {
    /// The files that this BIRD reads.
    pub fn templates(self) -> Vec<Template> {
        let template = |name, dialect| Template { name, dialect };
        match self {
            Bird::Two => vec![template("bird.conf", Dialect::Modern)],
            Bird::Fork => vec![
                template("bird.cfg", Dialect::Fork(Family::Ipv4)),
                template("bird6.cfg", Dialect::Fork(Family::Ipv6)),
            ],
        }
    }
}

/// What became of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Their texts were the same already.
    Unchanged,
    /// These were replaced, and BIRD was told.
    Changed(Vec<PathBuf>),
}

/// Why BIRD was not told.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be written.
    #[error("cannot write {path}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// A command did not end well; for the check the old file is still in place.
    #[error("{purpose} command `{command}` {what}")]
    Command {
        /// `check` or `reload`.
        purpose: &'static str,
        /// The command.
        command: String,
        /// How it ended, with what it said.
        what: String,
    },
}

/// Where and how to write.
#[derive(Debug, Clone)]
pub struct Files {
    directory: PathBuf,
    templates: Vec<Template>,
    check: String,
    reload: String,
    timeout: Duration,
}

impl Files {
    /// As the settings say; makes the directory.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        fs::create_dir_all(&settings.directory).map_err(|error| {
            format!("cannot make the directory {}: {error}", settings.directory.display())
        })?;
        Ok(Self {
            directory: settings.directory.clone(),
            templates: settings.bird.templates(),
            check: settings.check.clone(),
            reload: settings.reload.clone(),
            timeout: settings.timeout(),
        })
    }

    /// Renders and replaces what changed, then runs the reload command. A file that the check command refuses changes
    /// nothing; a reload that failed is tried again by the next call, changed or not.
    ///
    /// # Errors
    /// [`FileError`]; the files in place are whole in any case.
    pub fn write(&self, config: &SpeakerConfig, settings: &BirdSettings) -> Result<Outcome, FileError> {
        let mut staged = Vec::new();
        for template in &self.templates {
            let path = self.directory.join(template.name);
            let text = render(config, settings, template.dialect);
            if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
                continue;
            }
            staged.push(Staged::write(&path, &text)?);
        }
        for file in &staged {
            if !self.check.is_empty() {
                let path = file.temporary.to_string_lossy();
                self.run("check", &self.check.replace("{}", &path))?;
            }
        }
        let mut changed = Vec::new();
        for file in staged {
            changed.push(file.replace()?);
        }
        let owed = self.directory.join(".reload-owed");
        if changed.is_empty() && !owed.exists() {
            return Ok(Outcome::Unchanged);
        }
        if !self.reload.is_empty() {
            // Remembered on disk: whoever writes next, even after a crash, makes BIRD read its files.
            fs::write(&owed, "").map_err(|error| FileError::Write { path: owed.clone(), error })?;
            self.run("reload", &self.reload)?;
            let _ = fs::remove_file(&owed);
        }
        Ok(Outcome::Changed(changed))
    }

    fn run(&self, purpose: &'static str, command: &str) -> Result<(), FileError> {
        let failed = |what: String| FileError::Command { purpose, command: command.to_owned(), what };
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("cannot be started: {error}")))?;
        let end = Instant::now() + self.timeout;
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => {
                    let mut said = String::new();
                    if let Some(mut stderr) = child.stderr.take() {
                        let _ = io::Read::read_to_string(&mut stderr, &mut said);
                    }
                    return Err(failed(format!("ended with {status}: {}", said.trim())));
                }
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
                Ok(None) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(failed(format!("took longer than {:?} and was killed", self.timeout)));
                }
                Err(error) => return Err(failed(format!("cannot be waited for: {error}"))),
            }
        }
    }
}

/// A new text beside the file that it is going to replace; removed when it does not.
#[derive(Debug)]
struct Staged {
    temporary: PathBuf,
    path: PathBuf,
}

impl Staged {
    fn write(path: &Path, text: &str) -> Result<Self, FileError> {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        let staged = Self { temporary: path.with_file_name(name), path: path.to_owned() };
        let failed = |error| FileError::Write { path: staged.temporary.clone(), error };
        // Passwords stand in it: what the operator allowed for the old file holds for the new one.
        let old = fs::metadata(path).ok();
        let _ = fs::remove_file(&staged.temporary);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&staged.temporary)
            .map_err(failed)?;
        if let Some(old) = old {
            let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777)).map_err(failed)?;
        } else {
            file.set_permissions(fs::Permissions::from_mode(0o640)).map_err(failed)?;
        }
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(staged)
    }

    fn replace(self) -> Result<PathBuf, FileError> {
        fs::rename(&self.temporary, &self.path)
            .map_err(|error| FileError::Write { path: self.path.clone(), error })?;
        Ok(self.path.clone())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After the rename there is nothing to remove.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_bgp::config::PeerConfig;

    fn config(peers: u8) -> SpeakerConfig {
        let mut config = SpeakerConfig::new("10.0.0.1".parse().unwrap(), 64512);
        for number in 0..peers {
            let address = format!("10.0.0.{}", 2 + number).parse().unwrap();
            config = config.with_peer(PeerConfig::new(&format!("p{number}"), address, 64512, 64512));
        }
        config
    }

    fn files(dir: &Path, bird: Bird, check: &str, reload: &str) -> Files {
        Files {
            directory: dir.to_owned(),
            templates: bird.templates(),
            check: check.into(),
            reload: reload.into(),
            timeout: Duration::from_secs(5),
        }
    }

    fn write(files: &Files, peers: u8) -> Result<Outcome, FileError> {
        files.write(&config(peers), &BirdSettings::default())
    }

    #[test]
    fn only_a_changed_text_is_written_and_announced() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("reloads");
        let reload = format!("echo x >> {}", log.display());
        let files = files(dir.path(), Bird::Fork, "", &reload);
        let both = ["bird.cfg", "bird6.cfg"].map(|name| dir.path().join(name));
        assert_eq!(write(&files, 1).unwrap(), Outcome::Changed(both.to_vec()));
        assert_eq!(write(&files, 1).unwrap(), Outcome::Unchanged);
        // An IPv4 peer is no concern of the IPv6 daemon.
        fs::set_permissions(&both[0], fs::Permissions::from_mode(0o604)).unwrap();
        assert_eq!(write(&files, 2).unwrap(), Outcome::Changed(vec![both[0].clone()]));
        assert_eq!(fs::metadata(&both[0]).unwrap().mode() & 0o777, 0o604, "the operator's mode stays");
        assert_eq!(fs::read_to_string(log).unwrap().lines().count(), 2);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left lying about");
    }

    #[test]
    fn a_refused_file_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        write(&files(dir.path(), Bird::Two, "", ""), 1).unwrap();
        let before = fs::read(dir.path().join("bird.conf")).unwrap();
        let strict =
            files(dir.path(), Bird::Two, "grep -q nonsense {} || { echo no nonsense >&2; false; }", "");
        let error = write(&strict, 2).unwrap_err().to_string();
        assert!(error.contains("check command") && error.contains("no nonsense"), "{error}");
        assert_eq!(fs::read(dir.path().join("bird.conf")).unwrap(), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_reload_is_owed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(&files(dir.path(), Bird::Two, "", "false"), 1).is_err());
        let flag = dir.path().join("told");
        let reload = format!("touch {}", flag.display());
        assert_eq!(write(&files(dir.path(), Bird::Two, "", &reload), 1).unwrap(), Outcome::Changed(vec![]));
        assert!(flag.exists());
        assert_eq!(write(&files(dir.path(), Bird::Two, "", "false"), 1).unwrap(), Outcome::Unchanged);
    }

    #[test]
    fn a_command_that_hangs_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = files(dir.path(), Bird::Two, "", "sleep 60");
        files.timeout = Duration::from_millis(50);
        assert!(write(&files, 1).unwrap_err().to_string().contains("killed"));
    }
}
