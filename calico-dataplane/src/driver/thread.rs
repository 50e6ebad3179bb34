//! The thread that a driver lives on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use calico_policy::Changes;
use calico_policy::changes::WorkloadEndpointId;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use smallvec::SmallVec;

use super::{Driver, DriverConfig, DriverError, FibUpdate, Health, PolicyDataplane, StatusBoard};
use crate::manager::EndpointStatus;
use crate::netns::NetNs;

/// What the driver is told.
#[derive(Debug)]
pub enum Input {
    /// The policy graph flushed.
    Changes(Box<Changes>),
    /// BGP changed its mind about destinations.
    Fib(Vec<FibUpdate>),
    /// The datastore was read completely.
    InSync,
    /// BGP heard its peers out after the start.
    BgpConverged,
    /// Read the kernel again.
    Resync,
    /// Say so when everything that was sent before has been applied: [`Output::Passed`] with this number.
    Mark(u64),
    /// Say how you are.
    Health(mpsc::SyncSender<Health>),
}

/// What the driver tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// The status of an endpoint changed; `None` when it is gone.
    Endpoint(WorkloadEndpointId, Option<EndpointStatus>),
    /// Everything that was sent before [`Input::Mark`] with this number has been applied, as far as the kernel
    /// takes it.
    Passed(u64),
    /// The first apply after the datastore was in sync is done.
    Ready,
}

/// The way to a driver on its own thread. The thread ends when the handle is dropped; the kernel stays as it is.
#[derive(Debug)]
pub struct Handle {
    inputs: Option<mpsc::Sender<Input>>,
    wake: Arc<OwnedFd>,
    statuses: Arc<StatusBoard>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Tells the driver something. False when its thread has ended.
    pub fn send(&self, input: Input) -> bool {
        let sent = self.inputs.as_ref().is_some_and(|inputs| inputs.send(input).is_ok());
        sent && wake(&self.wake)
    }

    /// The status of every endpoint.
    pub fn statuses(&self) -> Arc<StatusBoard> {
        self.statuses.clone()
    }

    /// How the driver is; `None` when its thread has ended or is stuck.
    pub fn health(&self, patience: std::time::Duration) -> Option<Health> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.send(Input::Health(sender));
        receiver.recv_timeout(patience).ok()
    }

    /// False when the thread ended by itself: something is badly wrong.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inputs = None;
        wake(&self.wake);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn wake(fd: &OwnedFd) -> bool {
    // EAGAIN: the counter is full, so the thread will wake anyway.
    matches!(rustix::io::write(fd, &1_u64.to_ne_bytes()), Ok(_) | Err(rustix::io::Errno::AGAIN))
}

/// Starts a driver on a thread of its own, in the network namespace of the calling thread. `policy` is made on that
/// thread, so that its sockets belong to the right namespace. `output` is called on that thread and must not block.
///
/// # Errors
/// [`DriverError`], also what `policy` said.
pub fn spawn<P, E>(
    config: DriverConfig,
    policy: impl FnOnce() -> Result<P, E> + Send + 'static,
    mut output: impl FnMut(Output) + Send + 'static,
) -> Result<Handle, DriverError>
where
    P: PolicyDataplane + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let namespace = NetNs::current().map_err(io::Error::other)?;
    let wake_fd =
        Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(io::Error::from)?);
    let statuses = Arc::new(StatusBoard::default());
    let (sender, inputs) = mpsc::channel();
    let (started, outcome) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("dataplane".to_owned()).spawn({
        let (wake_fd, statuses) = (wake_fd.clone(), statuses.clone());
        move || {
            let opened = namespace
                .enter()
                .map_err(io::Error::other)
                .and_then(|()| policy().map_err(io::Error::other))
                .map_err(DriverError::from)
                .and_then(|policy| Driver::open(config, policy, Instant::now()));
            match opened {
                Ok(mut driver) => {
                    let _ = started.send(Ok(()));
                    live(&mut driver, &inputs, &wake_fd, &statuses, &mut output);
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        }
    })?;
    let ended = || io::Error::other("the thread ended before it said anything");
    outcome.recv().map_err(|_| ended())??;
    Ok(Handle { inputs: Some(sender), wake: wake_fd, statuses, thread: Some(thread) })
}

fn live<P: PolicyDataplane>(
    driver: &mut Driver<P>,
    inputs: &mpsc::Receiver<Input>,
    wake: &OwnedFd,
    statuses: &StatusBoard,
    output: &mut impl FnMut(Output),
) {
    let mut ready = false;
    loop {
        let mut questions = Vec::new();
        let mut passed = None;
        loop {
            match inputs.try_recv() {
                Ok(Input::Changes(changes)) => driver.changes(*changes),
                Ok(Input::Fib(updates)) => updates.into_iter().for_each(|update| driver.fib(update)),
                Ok(Input::InSync) => driver.in_sync(),
                Ok(Input::BgpConverged) => driver.bgp_converged(),
                Ok(Input::Resync) => driver.resync(),
                Ok(Input::Mark(number)) => passed = Some(number),
                Ok(Input::Health(answer)) => questions.push(answer),
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return,
            }
        }
        let progress = driver.apply(Instant::now());
        statuses.record(&progress.statuses);
        for (id, status) in progress.statuses {
            output(Output::Endpoint(id, status));
        }
        if let Some(number) = passed {
            output(Output::Passed(number));
        }
        if !questions.is_empty() || !ready {
            let health = driver.health();
            if health.ready && !ready {
                ready = true;
                output(Output::Ready);
            }
            for question in questions {
                let _ = question.try_send(health.clone());
            }
        }
        rest(driver, wake, progress.next);
    }
}

/// Sleeps until somebody has something to say or it is time.
fn rest<P: PolicyDataplane>(driver: &Driver<P>, wake: &OwnedFd, until: Option<Instant>) {
    let timeout = until.map(|at| {
        let left = at.saturating_duration_since(Instant::now());
        Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
    });
    let watch = driver.policy_watch();
    let mut fds: SmallVec<[PollFd<'_>; 3]> = SmallVec::new();
    fds.push(PollFd::new(driver.monitor(), PollFlags::IN));
    fds.push(PollFd::new(wake, PollFlags::IN));
    fds.extend(watch.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
    if let Err(errno) = poll(&mut fds, timeout.as_ref())
        && errno != rustix::io::Errno::INTR
    {
        tracing::error!(%errno, "poll failed");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let mut counter = [0; 8];
    let _ = rustix::io::read(wake.as_fd(), &mut counter);
}
