//! What the resolver of a cell answers: bytes in, bytes and events out.
//!
//! A name that the profile lists has its synthetic address, one beneath a wildcard gets the next of
//! the pool, and every other name does not exist. Nothing is asked of anybody: the host resolves a
//! name only when the tool connects to its synthetic address.
//!
//! Every query that a client could have meant is answered at once. Refused names are NXDOMAIN and
//! never REFUSED, by which musl stalls; no answer has IPv6 addresses or service parameters (HTTPS,
//! SVCB), so that clients use the addresses that they have, and learn no keys for hiding a server's
//! name (ECH).

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use hickory_proto::op::{
    Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{DNSClass, Name as DnsName, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use profiles::egress::{Lookup, Name, NameError, Plan, Refusal, Role};

use super::budget::{Budget, Kind};

/// How long a client may keep an answer: an address stands for one name as long as the call lasts,
/// but not longer.
pub const ANSWER_TTL_SECONDS: u32 = 5;
/// How long a client may remember that there is none.
pub const NEGATIVE_TTL_SECONDS: u32 = 1;
/// Longest query that is looked into; padded ones (RFC 8467) are some hundred bytes.
pub const QUERY_BYTES_MAX: usize = 4096;
/// Longest reply: a header (12), a question (259), a record for it (16 to 75) and EDNS (11) fit into
/// what UDP may always carry, so that none is ever truncated.
pub const REPLY_BYTES_MAX: usize = 512;
/// Most additional records of a query; clients send one or two.
const ADDITIONALS_MAX: u16 = 4;
/// Bytes of the header.
const HEADER_BYTES: usize = 12;
/// What EDNS says that we take by UDP (DNS flag day 2020).
const UDP_PAYLOAD_BYTES: u16 = 1232;

/// The resolver of one cell.
#[derive(Debug)]
pub struct Answers {
    plan: Arc<Plan>,
    free: Vec<Ipv4Addr>,
    assigned: HashMap<Name, Ipv4Addr>,
    names: HashMap<Ipv4Addr, Name>,
    budget: Budget,
}

/// What comes of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The message to send back, without the length that TCP has before it; `None` if the bytes are
    /// no query at all, and so nobody waits.
    pub reply: Option<Vec<u8>>,
    /// What the caller must do or note, before it sends the reply.
    pub event: Option<Event>,
}

/// What a query brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A name beneath a wildcard got its address: the sockets of that address must listen.
    Assigned {
        /// The name.
        name: Name,
        /// Its address from now on.
        address: Ipv4Addr,
    },
    /// A name does not exist for the cell.
    Refused {
        /// The name.
        name: Name,
        /// Why.
        refusal: Refusal,
    },
    /// The question is for what is no host name.
    NotAName {
        /// What was asked for, escaped.
        text: String,
        /// What is wrong with it.
        error: NameError,
    },
    /// A budget is used up; told once for each.
    Budget(Kind),
}

/// What is said of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Address(Ipv4Addr),
    /// It exists, and has no records of the type.
    Nothing,
    NotThere,
}

impl Answers {
    /// A resolver that has assigned nothing yet.
    #[must_use]
    pub fn new(plan: Arc<Plan>) -> Self {
        let pool: BTreeSet<_> = plan
            .sockets()
            .iter()
            .filter(|socket| socket.role == Role::Pool)
            .filter_map(|socket| match socket.address.ip() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
            .collect();
        Self {
            plan,
            // The lowest is taken first, from the end.
            free: pool.into_iter().rev().collect(),
            assigned: HashMap::new(),
            names: HashMap::new(),
            budget: Budget::default(),
        }
    }

    /// The name beneath a wildcard that an address of the pool stands for.
    #[must_use]
    pub fn name_at(&self, address: Ipv4Addr) -> Option<&Name> {
        self.names.get(&address)
    }

    /// Answers a message, which came by UDP or, without its length, by TCP.
    pub fn answer(&mut self, query: &[u8], now: Instant) -> Answered {
        let Ok(header) = Header::read(&mut BinDecoder::new(query)) else {
            return Answered::default();
        };
        if header.message_type == MessageType::Response {
            return Answered::default();
        }
        if header.op_code != OpCode::Query {
            return refuse(&header, ResponseCode::NotImp);
        }
        match read(query, &header) {
            Ok((question, edns)) => self.answer_question(&header, &question, edns.as_ref(), now),
            Err(code) => refuse(&header, code),
        }
    }

    fn answer_question(
        &mut self,
        header: &Header,
        question: &Query,
        edns: Option<&Edns>,
        now: Instant,
    ) -> Answered {
        let mut reply = Message::response(header.id, OpCode::Query);
        reply.metadata = reply_to(header);
        reply.add_query(question.clone());
        if let Some(edns) = edns {
            let mut own = Edns::new();
            own.set_max_payload(UDP_PAYLOAD_BYTES);
            own.set_dnssec_ok(edns.flags().dnssec_ok);
            reply.set_edns(own);
            if edns.version() > 0 {
                reply.metadata.response_code = ResponseCode::BADVERS;
                return answered(&reply, None);
            }
        }
        if question.query_class() != DNSClass::IN {
            reply.metadata.response_code = ResponseCode::NotImp;
            return answered(&reply, None);
        }
        let (said, event) = self.decide(question, now);
        match said {
            Said::Address(address) => {
                let data = RData::A(A(address));
                let owner = question.name().clone();
                reply.add_answer(Record::from_rdata(owner, ANSWER_TTL_SECONDS, data));
            }
            Said::Nothing => {
                reply.add_authority(authority());
            }
            Said::NotThere => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                reply.add_authority(authority());
            }
        }
        answered(&reply, event)
    }

    fn decide(&mut self, question: &Query, now: Instant) -> (Said, Option<Event>) {
        if let Err(kind) = self.budget.query(now) {
            return self.used_up(kind);
        }
        if question.name().is_root() {
            return (Said::Nothing, None);
        }
        let name = match Name::from_labels(question.name().iter()) {
            Ok(name) => name,
            Err(error) => {
                let text = as_text(question.name());
                return (Said::NotThere, Some(Event::NotAName { text, error }));
            }
        };
        let looked_up = self.plan.look_up(&name);
        if let Lookup::Known(address) = looked_up {
            return (of_type(question, address), None);
        }
        if is_noise(&name) || self.is_service(&name) {
            return (Said::NotThere, None);
        }
        match looked_up {
            Lookup::Known(address) => (of_type(question, address), None),
            Lookup::Pooled => self.pooled(question, name),
            Lookup::Refused(refusal) => match self.budget.refused(&name) {
                // Clients ask for addresses of both kinds: that is one attempt.
                Ok(new) if new || question.query_type() == RecordType::A => {
                    (Said::NotThere, Some(Event::Refused { name, refusal }))
                }
                Ok(_) => (Said::NotThere, None),
                Err(kind) => self.used_up(kind),
            },
        }
    }

    fn pooled(&mut self, question: &Query, name: Name) -> (Said, Option<Event>) {
        if let Some(address) = self.assigned.get(&name) {
            return (of_type(question, *address), None);
        }
        if let Err(kind) = self.budget.wild(&name) {
            return self.used_up(kind);
        }
        if question.query_type() != RecordType::A {
            return (Said::Nothing, None);
        }
        let Some(address) = self.free.pop() else {
            return self.used_up(Kind::Pool);
        };
        self.assigned.insert(name.clone(), address);
        self.names.insert(address, name.clone());
        let event = Event::Assigned { name, address };
        (Said::Address(address), Some(event))
    }

    fn used_up(&mut self, kind: Kind) -> (Said, Option<Event>) {
        let event = self.budget.tell(kind).then_some(Event::Budget(kind));
        (Said::NotThere, event)
    }

    /// Whether a name is one of a service (`_http._tcp.example.org`) of a host that exists for the
    /// cell: programs ask for it of their own accord and go on without it, so that it is no denial.
    fn is_service(&self, name: &Name) -> bool {
        let mut host = name.as_str();
        while let Some((_, rest)) = host.split_once('.').filter(|_| host.starts_with('_')) {
            host = rest;
        }
        host != name.as_str()
            && Name::parse(host)
                .is_ok_and(|host| !matches!(self.plan.look_up(&host), Lookup::Refused(_)))
    }
}

impl Default for Answered {
    /// Nothing comes of it.
    fn default() -> Self {
        Self {
            reply: None,
            event: None,
        }
    }
}

/// Reads the question and what EDNS says, or tells why not.
fn read(query: &[u8], header: &Header) -> Result<(Query, Option<Edns>), ResponseCode> {
    let counts = &header.counts;
    if query.len() > QUERY_BYTES_MAX
        || counts.queries != 1
        || counts.answers != 0
        || counts.authorities != 0
        || counts.additionals > ADDITIONALS_MAX
    {
        return Err(ResponseCode::FormErr);
    }
    let mut decoder = BinDecoder::new(query);
    Header::read(&mut decoder).map_err(|_| ResponseCode::FormErr)?;
    let question = Query::read(&mut decoder).map_err(|_| ResponseCode::FormErr)?;
    // A question that points elsewhere for its name could not be repeated as it came.
    let written: usize = question.name().iter().map(|label| label.len() + 1).sum();
    if decoder.index() != HEADER_BYTES + written + 1 + 4 {
        return Err(ResponseCode::FormErr);
    }
    let (_, edns, _) =
        Message::read_records(&mut decoder, counts.additionals.into(), true, OpCode::Query)
            .map_err(|_| ResponseCode::FormErr)?;
    Ok((question, edns))
}

/// The address for a query of type A; there is nothing else of a name.
fn of_type(question: &Query, address: Ipv4Addr) -> Said {
    match question.query_type() {
        RecordType::A => Said::Address(address),
        _ => Said::Nothing,
    }
}

/// What programs ask for whether or not they need it: counted as denials, it would hide what matters.
///
/// That is everything in `arpa` (addresses looked up backwards, encrypted resolvers, NAT64), the name
/// by which browsers ask whether to go round the resolver, `localhost`, which is in the cell's
/// `/etc/hosts`, and the automatic discovery of proxies.
fn is_noise(name: &Name) -> bool {
    let name = name.as_str();
    let last = name.rsplit('.').next().unwrap_or(name);
    matches!(last, "arpa" | "localhost") || matches!(name, "use-application-dns.net" | "wpad")
}

fn as_text(name: &DnsName) -> String {
    let labels: Vec<_> = name
        .iter()
        .map(|label| label.escape_ascii().to_string())
        .collect();
    labels.join(".")
}

/// Says whose word it is that there is nothing: resolvers want it, to know for how long.
fn authority() -> Record {
    let nobody = DnsName::root();
    let soa = SOA::new(
        nobody.clone(),
        nobody.clone(),
        1,
        1,
        1,
        1,
        NEGATIVE_TTL_SECONDS,
    );
    Record::from_rdata(nobody, NEGATIVE_TTL_SECONDS, RData::SOA(soa))
}

fn reply_to(header: &Header) -> Metadata {
    let mut metadata = Metadata::response_from_request(header);
    // Go takes an empty reply without these for one by a server that knows nothing of the name.
    metadata.authoritative = true;
    metadata.recursion_available = true;
    metadata
}

/// A reply without a question: there is none that could be repeated.
fn refuse(header: &Header, code: ResponseCode) -> Answered {
    let mut reply = Message::response(header.id, header.op_code);
    reply.metadata = reply_to(header);
    reply.metadata.authoritative = false;
    reply.metadata.response_code = code;
    answered(&reply, None)
}

fn answered(reply: &Message, event: Option<Event>) -> Answered {
    // A reply is written without fail: its names came from a message, and it is short.
    let reply = reply.to_vec().ok();
    Answered { reply, event }
}

#[cfg(test)]
mod tests;
