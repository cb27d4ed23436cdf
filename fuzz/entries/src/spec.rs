//! Messages between supervisor, launcher and cell.

use profiles::Library;
use runner::report::Report;
use runner::spec::{Call, Template};
use runner::wire::{self, CellOrder, Order};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Decodes it as every kind of message.
pub fn run(data: &[u8]) {
    decode::<Order>(data);
    decode::<CellOrder>(data);
    decode::<Report>(data);
    decode::<Template>(data);
    decode::<Call>(data);
}

/// What can be decoded is encoded and decoded to the same.
fn decode<T: Serialize + DeserializeOwned>(data: &[u8]) {
    let Ok(message) = wire::decode::<T>(data) else {
        return;
    };
    let once = wire::encode(&message).expect("what was decoded can be encoded");
    let again: T = wire::decode(&once).expect("what was encoded can be decoded");
    let twice = wire::encode(&again).expect("what was decoded can be encoded");
    assert_eq!(once, twice);
}

/// An order of each kind, and the templates of the profiles that are shipped.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let library = Library::builtin();
    let hello = Order::Hello {
        build: wire::BUILD.to_owned(),
        reader: runner::spec::Filter {
            program: vec![],
            notifies: false,
        },
    };
    let mut seeds = vec![
        wire::encode(&hello),
        wire::encode(&Order::Standby),
        wire::encode(&Order::Forget { id: 7 }),
        wire::encode(&Order::Over { call: 7 }),
        wire::encode(&CellOrder::Terminate),
        wire::encode(&Report::Built),
    ];
    for name in crate::shipped() {
        let resolved = crate::resolve(&library, &name).expect("a shipped profile resolves");
        if let Ok(compiled) = crate::compile(&resolved) {
            let template = Box::new(compiled.template);
            seeds.push(wire::encode(&Order::Template { id: 1, template }));
        }
    }
    seeds
        .into_iter()
        .map(|seed| seed.expect("plain data can be encoded"))
        .collect()
}
