//! Two network namespaces with a wire between them: ours and the peer's. Programs in them end with the arena.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use calico_dataplane::netns::NetNs;

static NEXT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Arena {
    pub(crate) ours: String,
    pub(crate) theirs: String,
    pub(crate) dir: tempfile::TempDir,
}

/// Reports that `name` cannot run here.
fn skip(name: &str, why: &str) {
    assert!(std::env::var_os("CALICO_NO_SKIP").is_none(), "{name} may not be skipped here: {why}");
    println!("skipped: {name}: {why}");
}

/// Where a program is, `/usr/sbin`, `/usr/lib/frr` and the like included.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin", "/usr/lib/frr"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Namespaces for a test that needs `programs`; `None`, with a line that says why, when it cannot run here.
pub(crate) fn arena(test: &str, programs: &[&str]) -> Option<Arena> {
    for name in programs.iter().chain(&["ip"]) {
        if program(name).is_none() {
            skip(test, &format!("{name} is not installed"));
            return None;
        }
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = |end: &str| format!("cbgp{}-{number}{end}", std::process::id());
    let arena = Arena { ours: name("a"), theirs: name("b"), dir: tempfile::tempdir().unwrap() };
    match Command::new("ip").args(["netns", "add", &arena.ours]).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            skip(test, String::from_utf8_lossy(&output.stderr).trim());
            return None;
        }
        Err(error) => {
            skip(test, &error.to_string());
            return None;
        }
    }
    let (ours, theirs) = (&arena.ours, &arena.theirs);
    // Programs that drop their rights still have to read and write here.
    std::fs::set_permissions(arena.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    ip(&format!("netns add {theirs}"));
    ip(&format!("-n {ours} link add v0 type veth peer name v0 netns {theirs}"));
    for (namespace, addresses) in [
        (ours, &["10.99.0.1/24", "fd99::1/64"][..]),
        (theirs, &["10.99.0.2/24", "10.99.0.3/24", "fd99::2/64"][..]),
    ] {
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            ip(&format!("-n {namespace} addr add {address} dev v0{nodad}"));
        }
        ip(&format!("-n {namespace} link set lo up"));
        ip(&format!("-n {namespace} link set v0 up"));
    }
    Some(arena)
}

pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Arena {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A command inside the peer's namespace.
    pub(crate) fn command(&self, program_name: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.theirs]).arg(program(program_name).unwrap());
        command
    }

    /// Starts a program of the peer's side; what it says goes to a file.
    pub(crate) fn start(&self, program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Running {
        let log = self.path(&format!("{program}.log"));
        let out = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.command(program);
        command.args(arguments).envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        calico_dataplane::sys::process::die_with_parent(&mut command);
        Running { child: command.spawn().unwrap(), log }
    }

    /// What a command of the peer's side says.
    pub(crate) fn ask(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Moves this thread to our side, for good.
    pub(crate) fn enter(namespace: &str) {
        NetNs::open(Path::new("/run/netns").join(namespace)).unwrap().enter().unwrap();
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for namespace in [&self.ours, &self.theirs] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).output();
        }
    }
}

/// A program of the peer's side.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// What it said, to be shown when a test fails.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    /// As `kill -9` does.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + Duration::from_secs(40);
    loop {
        match holds() {
            Ok(()) => return,
            Err(state) => assert!(Instant::now() < end, "{what}: {state}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
