//! Storing the IPAM configuration.

use crate::error::IpamError;
use crate::io::{Event, Io};
use crate::store::{Answer, Batch, Config, Expect, Found, Key, Operation, Query, Step, Stored, Write};

/// Stores the IPAM configuration after checking it.
#[derive(Debug, Clone)]
pub struct SetConfig {
    wanted: Config,
    io: Io,
}

impl SetConfig {
    /// An operation that stores `wanted`.
    #[must_use]
    pub fn new(wanted: Config) -> Self {
        Self { wanted, io: Io::default() }
    }

    fn check(&self) -> Result<(), IpamError> {
        if !self.wanted.strict_affinity && !self.wanted.auto_allocate_blocks {
            return Err(IpamError::Config {
                rule: "strictAffinity and autoAllocateBlocks cannot both be false: no host could use a block",
            });
        }
        if self.wanted.max_blocks_per_host > 0 && !self.wanted.strict_affinity {
            return Err(IpamError::Config {
                rule: "maxBlocksPerHost needs strictAffinity: without it a host at the limit borrows",
            });
        }
        if self.wanted.cooldown_seconds > 1200 {
            return Err(IpamError::Config { rule: "ipCooldownSeconds is at most 1200" });
        }
        Ok(())
    }
}

impl Operation for SetConfig {
    /// Whether anything had to be written.
    type Output = bool;

    fn step(&mut self, answer: Answer) -> Result<Step<bool>, IpamError> {
        match self.io.absorb(answer)? {
            Event::Begin => self.check()?,
            Event::Written { failure: None, .. } => return Ok(Step::Done(true)),
            Event::Written { .. } => {
                self.io.retry(&Key::Config)?;
                self.io.view.forget(&Key::Config);
            }
            Event::Read(found) => {
                let unchanged = match found.into_iter().next() {
                    Some(Found::One(Some(item))) => item.value == Stored::Config(self.wanted),
                    Some(Found::One(None)) => self.wanted == Config::default(),
                    _ => false,
                };
                if unchanged {
                    return Ok(Step::Done(false));
                }
                let expect = self.io.view.revision(&Key::Config).map_or(Expect::Absent, Expect::Revision);
                let write = Write { key: Key::Config, value: Some(Stored::Config(self.wanted)), expect };
                return Ok(Step::Need(self.io.write(Batch { writes: vec![write] })));
            }
        }
        Ok(Step::Need(self.io.read(vec![Query::Get(Key::Config)])))
    }
}
