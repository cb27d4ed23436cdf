//! The cell's network namespace: empty, or with a resolver and sockets that stand for hosts.

use std::sync::Arc;

use runner::spec::{CELL_SOCKETS_MAX, CellSocket, Network};

use crate::diagnostics::{Diagnostic, Problems};
use crate::egress::{Plan, SOCKETS_MAX};
use crate::resolve::Resolved;

const _: () = assert!(SOCKETS_MAX <= CELL_SOCKETS_MAX);

/// What the profile's cells may reach.
pub(super) fn egress(resolved: &Resolved, problems: &mut Problems) -> Option<Arc<Plan>> {
    let rules = &resolved.network;
    if rules.is_none() {
        return None;
    }
    let plan = Plan::new(
        rules.allow.clone(),
        rules.deny.clone(),
        rules.allow_addresses.clone(),
        rules.allow_no_sni,
    );
    let plan = plan.map_err(|error| {
        Diagnostic::at(&resolved.origin, error.to_string())
            .with_hint("list fewer hosts, or fewer ports of each")
    });
    problems.note(plan).map(Arc::new)
}

/// Whether programs may make TCP connections at all.
pub(super) fn talks_tcp(resolved: &Resolved) -> bool {
    resolved.network.loopback || !resolved.network.is_none()
}

/// The orders for the namespace; the sockets are in the plan's order.
pub(super) fn namespace(plan: Option<&Plan>) -> Network {
    let Some(plan) = plan else {
        return Network::None;
    };
    let sockets = plan.sockets().iter().map(|socket| CellSocket {
        address: socket.address,
        listens: socket.listens(),
    });
    Network::Egress {
        sockets: sockets.collect(),
    }
}
