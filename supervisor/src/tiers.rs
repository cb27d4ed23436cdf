//! What the operator says of tiers, and which may be used by it.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use profiles::tier::Tier;

/// The options about tiers, which every command has.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct TierArgs {
    /// The tier, which is `full` if none is named: a weaker one is only ever used when it is named
    #[arg(
        long,
        global = true,
        value_name = "TIER",
        value_parser = tiers(),
        env = "TOOLCELL_TIER"
    )]
    tier: Option<Tier>,
    /// Take the strongest tier that this host has, if it is no weaker than this one
    #[arg(
        long,
        global = true,
        value_name = "TIER",
        value_parser = tiers(),
        env = "TOOLCELL_REQUIRE_TIER"
    )]
    require_tier: Option<Tier>,
}

fn tiers() -> impl TypedValueParser<Value = Tier> {
    let each = Tier::ALL.map(|tier| PossibleValue::new(tier.name()).help(tier.summary()));
    PossibleValuesParser::new(each)
        .map(|name| Tier::named(&name).expect("only names of tiers are possible values"))
}

impl TierArgs {
    /// The tiers that may be used, the strongest first: one at least.
    ///
    /// # Errors
    /// If the one that is named is weaker than what is required.
    pub fn allowed(self) -> Result<Vec<Tier>, String> {
        match (self.tier, self.require_tier) {
            (None, None) => Ok(vec![Tier::Full]),
            (Some(tier), None) => Ok(vec![tier]),
            (Some(tier), Some(least)) if tier.at_least(least) => Ok(vec![tier]),
            (Some(tier), Some(least)) => Err(format!(
                "the tier `{tier}` is named and at least `{least}` is required; hint: give one of \
                 `--tier` (`TOOLCELL_TIER`) and `--require-tier` (`TOOLCELL_REQUIRE_TIER`)"
            )),
            (None, Some(least)) => {
                let tiers = Tier::ALL.into_iter();
                Ok(tiers.filter(|tier| tier.at_least(least)).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(tier: Option<Tier>, require_tier: Option<Tier>) -> Result<Vec<Tier>, String> {
        TierArgs { tier, require_tier }.allowed()
    }

    #[test]
    fn no_weaker_tier_is_allowed_unless_it_is_named() {
        let (full, rlimits) = (Some(Tier::Full), Some(Tier::Rlimits));
        assert_eq!(allowed(None, None), Ok(vec![Tier::Full]));
        assert_eq!(allowed(None, full), Ok(vec![Tier::Full]));
        assert_eq!(allowed(full, rlimits), Ok(vec![Tier::Full]));
        assert_eq!(allowed(rlimits, None), Ok(vec![Tier::Rlimits]));
        assert_eq!(allowed(rlimits, rlimits), Ok(vec![Tier::Rlimits]));
        assert_eq!(allowed(None, rlimits), Ok(vec![Tier::Full, Tier::Rlimits]));
        let refused = allowed(rlimits, full).unwrap_err();
        assert!(refused.contains("at least `full`"), "{refused}");
    }
}
