//! Builds under way, by the references that clients give them: the request, what is told, what came of it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};

use sampan_buildkit::control::{SolveRequest, StatusResponse};
use sampan_buildkit::gateway::ReturnRequest;
use sampan_buildkit::grpc::{Code, Status};

use super::build::Product;

/// How long a call that is part of a build waits for that to be asked for; a client sends both at once.
const ASKING: Duration = Duration::from_secs(20);
/// What is told and not yet sent. A client that listens slowly slows its build; without one who listens, the oldest goes.
const TOLD: usize = 256;

/// Builds that have ended and may still be asked about: a call to follow one may come after a build that had little to do.
const RECENT: usize = 32;

/// All of them.
#[derive(Debug, Default)]
pub struct Jobs {
    all: Mutex<HashMap<String, Weak<Job>>>,
    recent: Arc<Mutex<VecDeque<Arc<Job>>>>,
}

impl Jobs {
    /// The build of that name, asked for or not yet.
    pub fn get(&self, reference: &str) -> Result<Arc<Job>, Status> {
        if reference.is_empty() || reference.len() > 256 {
            return Err(Status::new(Code::InvalidArgument, "a build needs a reference"));
        }
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(reference).and_then(Weak::upgrade) {
            return Ok(found);
        }
        all.retain(|_, job| job.strong_count() > 0);
        let made = Arc::new(Job::new(reference));
        all.insert(reference.to_owned(), Arc::downgrade(&made));
        Ok(made)
    }

    /// Asks for a build, once.
    pub fn ask(&self, job: &Arc<Job>, request: SolveRequest) -> Result<Asked, Status> {
        job.ask(request)?;
        Ok(Asked { job: Arc::clone(job), recent: Arc::clone(&self.recent) })
    }
}

/// One build.
#[derive(Debug)]
pub struct Job {
    reference: String,
    request: watch::Sender<Option<Arc<SolveRequest>>>,
    told: Mutex<Told>,
    changed: Notify,
    returned: watch::Sender<Option<ReturnRequest>>,
    products: Mutex<HashMap<String, Arc<Product>>>,
}

#[derive(Debug, Default)]
struct Told {
    queue: VecDeque<StatusResponse>,
    heard: bool,
    ended: bool,
}

/// Ends what is told when the build does, however that is.
#[derive(Debug)]
pub struct Asked {
    job: Arc<Job>,
    recent: Arc<Mutex<VecDeque<Arc<Job>>>>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.job.told.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.job.changed.notify_waiters();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back(Arc::clone(&self.job));
        if recent.len() > RECENT {
            recent.pop_front();
        }
    }
}

impl Job {
    fn new(reference: &str) -> Self {
        Self {
            reference: reference.to_owned(),
            request: watch::Sender::new(None),
            told: Mutex::default(),
            changed: Notify::new(),
            returned: watch::Sender::new(None),
            products: Mutex::default(),
        }
    }

    /// The name that the client gave it.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    fn ask(&self, request: SolveRequest) -> Result<(), Status> {
        let mut fresh = true;
        self.request.send_if_modified(|asked| {
            fresh = asked.is_none();
            if fresh {
                *asked = Some(Arc::new(request));
            }
            fresh
        });
        if fresh {
            Ok(())
        } else {
            Err(Status::new(Code::AlreadyExists, format!("a build {} is there already", self.reference)))
        }
    }

    /// What was asked for.
    pub async fn request(&self) -> Result<Arc<SolveRequest>, Status> {
        let mut request = self.request.subscribe();
        let found = tokio::time::timeout(ASKING, request.wait_for(Option::is_some)).await;
        let found = found.ok().and_then(Result::ok).and_then(|found| found.clone());
        found.ok_or_else(|| Status::new(Code::NotFound, format!("no build {} is asked for", self.reference)))
    }

    /// Tells something; waits for whoever listens slowly.
    pub async fn tell(&self, status: StatusResponse) {
        let mut status = Some(status);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                if told.queue.len() < TOLD || !told.heard {
                    if told.queue.len() >= TOLD {
                        told.queue.pop_front();
                    }
                    told.queue.extend(status.take());
                    break;
                }
                if told.ended {
                    return;
                }
            }
            changed.await;
        }
        self.changed.notify_waiters();
    }

    /// The next of what is told; `None` when all is.
    pub async fn hear(&self) -> Option<StatusResponse> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                told.heard = true;
                if let Some(next) = told.queue.pop_front() {
                    drop(told);
                    self.changed.notify_waiters();
                    return Some(next);
                }
                if told.ended {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Nobody listens any more.
    pub fn unheard(&self) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).heard = false;
        self.changed.notify_waiters();
    }

    /// Keeps what was built under a name for the client; that name.
    pub fn keep(&self, product: Product) -> String {
        let mut products = self.products.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("{}-{}", self.reference, products.len());
        products.insert(name.clone(), Arc::new(product));
        name
    }

    /// What was built under a name.
    pub fn product(&self, name: &str) -> Option<Arc<Product>> {
        self.products.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The client says what the build is to end with.
    pub fn end_with(&self, returned: ReturnRequest) {
        self.returned.send_replace(Some(returned));
    }

    /// Waits for that.
    pub async fn returned(&self) -> ReturnRequest {
        let mut returned = self.returned.subscribe();
        let found = returned.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        // The sender is this value's own.
        found.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn said(text: &str) -> StatusResponse {
        let vertex = sampan_buildkit::control::Vertex { name: text.to_owned(), ..Default::default() };
        StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() }
    }

    #[tokio::test]
    async fn what_is_told_is_heard_to_the_end_and_by_no_means_kept_without_bound() {
        let jobs = Jobs::default();
        let job = jobs.get("a").unwrap();
        assert!(Arc::ptr_eq(&job, &jobs.get("a").unwrap()));
        assert!(jobs.get("").is_err());
        let asked = jobs.ask(&job, SolveRequest::default()).unwrap();
        assert_eq!(jobs.ask(&job, SolveRequest::default()).unwrap_err().code, Code::AlreadyExists as i32);
        for number in 0..TOLD + 10 {
            job.tell(said(&number.to_string())).await;
        }
        assert_eq!(job.hear().await, Some(said("10")));
        for _ in 0..TOLD - 1 {
            job.hear().await.unwrap();
        }
        let listening = tokio::spawn({
            let job = Arc::clone(&job);
            async move { (job.hear().await, job.hear().await) }
        });
        job.tell(said("last")).await;
        drop(asked);
        assert_eq!(listening.await.unwrap(), (Some(said("last")), None));
    }

    #[tokio::test]
    async fn who_asks_late_hears_that_a_build_has_ended() {
        let jobs = Jobs::default();
        let job = jobs.get("quick").unwrap();
        let asked = jobs.ask(&job, SolveRequest::default()).unwrap();
        job.tell(said("done")).await;
        drop((asked, job));
        let late = jobs.get("quick").unwrap();
        assert_eq!((late.hear().await, late.hear().await), (Some(said("done")), None));
        drop(late);
        // Not for ever.
        for number in 0..RECENT {
            let job = jobs.get(&number.to_string()).unwrap();
            drop(jobs.ask(&job, SolveRequest::default()).unwrap());
        }
        jobs.ask(&jobs.get("quick").unwrap(), SolveRequest::default()).unwrap();
    }

    #[tokio::test]
    async fn a_build_waits_for_one_who_listens_slowly() {
        let job = Jobs::default().get("a").unwrap();
        job.tell(said("first")).await;
        job.hear().await.unwrap();
        let telling = tokio::spawn({
            let job = Arc::clone(&job);
            async move {
                for _ in 0..=TOLD {
                    job.tell(said("x")).await;
                }
            }
        });
        for _ in 0..=TOLD {
            job.hear().await.unwrap();
        }
        telling.await.unwrap();
    }
}
