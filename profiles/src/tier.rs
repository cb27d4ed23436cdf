//! The tiers: how much of the design holds, and exactly what is lost where not all of it does.
//!
//! All that is said and decided about a tier comes from the one table here.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most tiers that there may ever be: what nobody can keep apart is no choice.
const TIERS_MAX: usize = 4;

/// How much of the design holds on this host. Each weaker one must be chosen by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Every layer: namespaces, minimal root, Landlock, seccomp, cgroup limits.
    Full,
    /// Without cgroups: memory and CPU are limited for each process (rlimits) and their sum is only
    /// sampled.
    Rlimits,
}

/// What there is to say about one tier.
struct Facts {
    name: &'static str,
    summary: &'static str,
    cgroups: bool,
    network_namespace: bool,
    lost: &'static [&'static str],
}

const FULL: Facts = Facts {
    name: "full",
    summary: "Every layer: namespaces, minimal root, Landlock, seccomp, cgroup limits",
    cgroups: true,
    network_namespace: true,
    lost: &[],
};

const RLIMITS: Facts = Facts {
    name: "rlimits",
    summary: "Without cgroups: memory and CPU are limited for each process, and only their sum is \
              sampled",
    cgroups: false,
    network_namespace: true,
    lost: &[
        "memory: capped for each process (`RLIMIT_DATA`); the cell's sum is sampled ten times a \
         second, so a burst can pass the limit before the cell is ended",
        "CPU share: `limits.cpu` is not enforced; `limits.cpu_time` is, by samples",
        "out of memory: a process sees a failed allocation rather than the kernel's kill",
    ],
};

impl Tier {
    /// All of them, the strongest first; each lacks all that the ones before it lack.
    pub const ALL: [Self; 2] = [Self::Full, Self::Rlimits];

    const fn facts(self) -> &'static Facts {
        match self {
            Self::Full => &FULL,
            Self::Rlimits => &RLIMITS,
        }
    }

    /// The name, as it is written in profiles, on the command line and in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// What it is, in a line.
    #[must_use]
    pub const fn summary(self) -> &'static str {
        self.facts().summary
    }

    /// Whether each cell has control groups of its own.
    #[must_use]
    pub const fn has_cgroups(self) -> bool {
        self.facts().cgroups
    }

    /// Whether a cell has a network namespace of its own, without which a host's name means
    /// nothing that could be enforced.
    #[must_use]
    pub const fn has_network_namespace(self) -> bool {
        self.facts().network_namespace
    }

    /// What it lacks of the full one, a sentence each.
    #[must_use]
    pub const fn lost(self) -> &'static [&'static str] {
        self.facts().lost
    }

    /// Whether it is no weaker than another.
    #[must_use]
    pub fn at_least(self, least: Self) -> bool {
        let rank = |tier| Self::ALL.iter().position(|listed| *listed == tier);
        rank(self) <= rank(least)
    }

    /// The tier of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.name() == name)
    }
}

const _: () = assert!(Tier::ALL.len() <= TIERS_MAX);

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_is_listed_from_the_strongest_down() {
        for tier in Tier::ALL {
            // A tier that is added to the enum and not to the list does not compile here.
            let lost_more = match tier {
                Tier::Full => Tier::Full.lost().is_empty(),
                Tier::Rlimits => !Tier::Rlimits.lost().is_empty(),
            };
            assert!(lost_more, "{tier}");
            assert_eq!(Tier::named(tier.name()), Some(tier));
            assert_eq!(serde_json::to_value(tier).unwrap(), tier.name());
        }
        for (place, stronger) in Tier::ALL.into_iter().enumerate() {
            for weaker in Tier::ALL.into_iter().skip(place) {
                assert!(stronger.at_least(weaker), "{stronger} {weaker}");
                assert_eq!(weaker.at_least(stronger), weaker == stronger);
            }
        }
        assert_eq!(Tier::named("none"), None);
    }
}
