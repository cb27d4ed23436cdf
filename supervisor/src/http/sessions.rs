//! Sessions of clients of the older era: limited in number, each with one owner, ended when idle, and
//! calls that end when nobody waits for their answers any more.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use rmcp::model::{
    CancelledNotification, CancelledNotificationParam, ClientJsonRpcMessage, ClientNotification,
    JsonRpcMessage, JsonRpcNotification, JsonRpcVersion2_0, RequestId, ServerJsonRpcMessage,
};
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError, SessionConfig,
};
use rmcp::transport::streamable_http_server::session::{
    RestoreOutcome, ServerSseMessage, SessionId, SessionManager,
};

use crate::caller::Caller;

/// Most sessions at once.
pub const SESSIONS_MAX: usize = 1024;
/// Most sessions of one caller.
pub const SESSIONS_OF_CALLER_MAX: usize = 256;
/// A session in which nothing is said for so long is over; its client begins another. It is longer
/// than calls are, usually.
pub const SESSION_IDLE_MAX: Duration = Duration::from_hours(1);
/// How long a client that lost its connection may take to ask for the rest of an answer
/// (`Last-Event-ID`), before the call ends.
pub const RESUME_MAX: Duration = Duration::from_secs(5);
/// When clients are told to try that.
pub const RETRY: Duration = Duration::from_secs(1);

tokio::task_local! {
    /// Who makes the request under way, and whether they have been refused a session.
    pub static ASKING: Asking;
}

/// The request under way, as [`Sessions`] needs to know it.
#[derive(Clone)]
pub struct Asking {
    /// Who makes it.
    pub caller: Caller,
    /// Set if there is no place for a session.
    pub refused: Arc<Mutex<bool>>,
}

/// All sessions.
pub struct Sessions {
    inner: LocalSessionManager,
    all: Arc<Mutex<All>>,
    /// Itself, for calls that outlive their request.
    this: Weak<Self>,
}

#[derive(Default)]
struct All {
    sessions: HashMap<SessionId, One>,
    /// How many each caller has, or is about to have.
    owned: HashMap<String, usize>,
}

/// One session.
struct One {
    place: Place,
    /// Requests whose client has lost its connection.
    orphans: Vec<RequestId>,
}

/// A place for a session of a caller's.
struct Place {
    owner: String,
    all: Weak<Mutex<All>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(all) = self.all.upgrade() else {
            return;
        };
        let mut all = lock(&all);
        if let Some(count) = all.owned.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                all.owned.remove(&self.owner);
            }
        }
    }
}

fn lock(all: &Mutex<All>) -> std::sync::MutexGuard<'_, All> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    /// There are as many as there may be.
    #[error("there are too many sessions already")]
    Full,
    /// What the library says.
    #[error(transparent)]
    Local(#[from] LocalSessionManagerError),
}

impl Sessions {
    /// None yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let mut config = SessionConfig::default();
        config.keep_alive = Some(SESSION_IDLE_MAX);
        config.sse_retry = Some(RETRY);
        let mut inner = LocalSessionManager::default();
        inner.session_config = config;
        Arc::new_cyclic(|this| Self {
            inner,
            all: Arc::default(),
            this: this.clone(),
        })
    }

    /// Whether there is this session, and it is theirs.
    #[must_use]
    pub fn is_of(&self, id: &str, caller: &Caller) -> bool {
        let all = lock(&self.all);
        let session = all.sessions.get(id);
        session.is_some_and(|session| session.place.owner == caller.id)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.all).sessions.len()
    }

    fn place(&self) -> Result<Place, SessionsError> {
        let asking = ASKING
            .try_with(Clone::clone)
            .map_err(|_| SessionsError::Full)?;
        let owner = asking.caller.id;
        let mut all = lock(&self.all);
        let together: usize = all.owned.values().sum();
        let own = all.owned.get(&owner).copied().unwrap_or_default();
        if together >= SESSIONS_MAX || own >= SESSIONS_OF_CALLER_MAX {
            *asking
                .refused
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = true;
            return Err(SessionsError::Full);
        }
        all.owned.insert(owner.clone(), own + 1);
        let all = Arc::downgrade(&self.all);
        Ok(Place { owner, all })
    }

    fn watched<S>(&self, id: &SessionId, requests: Vec<RequestId>, stream: S) -> Watched<S> {
        Watched {
            stream: Box::pin(stream),
            answers: (!requests.is_empty()).then(|| Answers {
                sessions: self.this.clone(),
                session: Arc::clone(id),
                requests,
            }),
        }
    }

    /// Ends calls whose client does not come back for their answers.
    async fn unless_resumed(self: Arc<Self>, id: SessionId, requests: Vec<RequestId>) {
        match lock(&self.all).sessions.get_mut(&id) {
            Some(session) => session.orphans.extend(requests.iter().cloned()),
            None => return,
        }
        tokio::time::sleep(RESUME_MAX).await;
        for request in requests {
            let is_orphan = {
                let mut all = lock(&self.all);
                let session = all.sessions.get_mut(&id);
                session.is_some_and(|session| {
                    let before = session.orphans.len();
                    session.orphans.retain(|orphan| *orphan != request);
                    session.orphans.len() < before
                })
            };
            if is_orphan {
                // A session that has ended meanwhile has taken its calls with it.
                let _ = self.inner.accept_message(&id, cancelled(request)).await;
            }
        }
    }
}

/// What a client says that gives up a request.
fn cancelled(request: RequestId) -> ClientJsonRpcMessage {
    let parameters = CancelledNotificationParam::new(
        Some(request),
        Some("the client's connection has ended".to_owned()),
    );
    JsonRpcMessage::Notification(JsonRpcNotification {
        jsonrpc: JsonRpcVersion2_0,
        notification: ClientNotification::CancelledNotification(CancelledNotification::new(
            parameters,
        )),
    })
}

impl SessionManager for Sessions {
    type Error = SessionsError;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let place = self.place()?;
        let (id, transport) = self.inner.create_session().await?;
        let orphans = Vec::new();
        let session = One { place, orphans };
        lock(&self.all).sessions.insert(Arc::clone(&id), session);
        Ok((id, transport))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        Ok(self.inner.initialize_session(id, message).await?)
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        Ok(self.inner.has_session(id).await?)
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        // It is dropped when the lock is not held any more, since its place takes it again.
        let session = lock(&self.all).sessions.remove(id);
        drop(session);
        Ok(self.inner.close_session(id).await?)
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let request = match &message {
            JsonRpcMessage::Request(request) => vec![request.id.clone()],
            _ => vec![],
        };
        let stream = self.inner.create_stream(id, message).await?;
        Ok(self.watched(id, request, stream))
    }

    async fn accept_message(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<(), Self::Error> {
        Ok(self.inner.accept_message(id, message).await?)
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.inner.create_standalone_stream(id).await?)
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let stream = self.inner.resume(id, last_event_id).await?;
        // Which of them it is for, the library does not say.
        let waiting = lock(&self.all)
            .sessions
            .get_mut(id)
            .map(|session| std::mem::take(&mut session.orphans))
            .unwrap_or_default();
        Ok(self.watched(id, waiting, stream))
    }

    async fn restore_session(
        &self,
        _id: SessionId,
    ) -> Result<RestoreOutcome<Self::Transport>, Self::Error> {
        Ok(RestoreOutcome::NotSupported)
    }
}

/// A stream of answers, which knows whether its client has seen its end.
struct Watched<S> {
    stream: Pin<Box<S>>,
    answers: Option<Answers>,
}

/// Requests that a stream answers.
struct Answers {
    sessions: Weak<Sessions>,
    session: SessionId,
    requests: Vec<RequestId>,
}

impl<S: Stream> Stream for Watched<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let next = this.stream.as_mut().poll_next(context);
        if matches!(next, Poll::Ready(None)) {
            this.answers = None;
        }
        next
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        let Some(answers) = self.answers.take() else {
            return;
        };
        let Some(sessions) = answers.sessions.upgrade() else {
            return;
        };
        // Outside of a runtime everything is over anyway.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(sessions.unless_resumed(answers.session, answers.requests));
        }
    }
}
