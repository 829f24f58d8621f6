//! The thread that owns the model and decodes all requests together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use axum::http::StatusCode;
use slm_model::{CpuBatch, Transformer};

use crate::error::{ApiError, Error, Result};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::model::ServedModel;
use crate::sequence::{Active, Event, Failed, Job, Progress};

/// Maximum number of prompt tokens in one step. They delay the next token of every other request.
const PROMPT_ROWS: usize = 128;

/// Handle that sends jobs to the model's thread.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    jobs: SyncSender<Job>,
    metrics: Arc<Metrics>,
    /// True once the model's thread has ended, in whatever way.
    ended: Arc<AtomicBool>,
}

/// Notes the end of a thread, also by a panic.
struct EndMark(Arc<AtomicBool>);

impl Drop for EndMark {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Queue {
    /// Starts the model's thread. It ends when all clones of the queue are dropped and the last answer is finished.
    pub(crate) fn start(
        served: Arc<ServedModel>,
        limits: &Limits,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, JoinHandle<Result<()>>)> {
        // Fails for an unsupported model before the server listens.
        CpuBatch::new(&served.model)?;
        let (jobs, receiver) = sync_channel(limits.queue);
        let (parallel, for_thread) = (limits.parallel.max(1), Arc::clone(&metrics));
        let ended = Arc::new(AtomicBool::new(false));
        let mark = EndMark(Arc::clone(&ended));
        let thread = std::thread::Builder::new().name("slm-model".to_owned()).spawn(move || {
            let _mark = mark;
            let mut scheduler = Scheduler {
                batch: CpuBatch::new(&served.model)?,
                model: &served.model,
                served: &served,
                active: Vec::new(),
                parallel,
                jobs: receiver,
                metrics: &for_thread,
            };
            scheduler.run();
            Ok(())
        });
        Ok((Self { jobs, metrics, ended }, thread.map_err(Error::Start)?))
    }

    /// Returns `true` as long as the model's thread can answer.
    pub(crate) fn is_alive(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    /// Queues a job.
    pub(crate) fn submit(&self, job: Job) -> Result<(), ApiError> {
        self.metrics.waiting.fetch_add(1, Ordering::Relaxed);
        self.jobs.try_send(job).map_err(|error| {
            self.metrics.waiting.fetch_sub(1, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => {
                    let message = "the server is busy: its queue is full; try again in a moment";
                    ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).with_code("queue_full")
                }
                TrySendError::Disconnected(_) => ApiError::internal("the model's thread has ended"),
            }
        })
    }
}

struct Scheduler<'m> {
    batch: CpuBatch<'m>,
    model: &'m Transformer,
    served: &'m ServedModel,
    active: Vec<Active<'m>>,
    parallel: usize,
    jobs: Receiver<Job>,
    metrics: &'m Metrics,
}

impl Scheduler<'_> {
    fn run(&mut self) {
        while self.admit() {
            self.drop_abandoned();
            self.step();
        }
    }

    /// Accepts jobs while there are free places; blocks for a job when none is running. Returns `false` when no more
    /// can come.
    fn admit(&mut self) -> bool {
        while self.active.len() < self.parallel {
            let job = match self.active.is_empty() {
                true => match self.jobs.recv() {
                    Ok(job) => job,
                    Err(_) => return false,
                },
                false => match self.jobs.try_recv() {
                    Ok(job) => job,
                    Err(_) => return true,
                },
            };
            self.metrics.waiting.fetch_sub(1, Ordering::Relaxed);
            self.start(job);
        }
        true
    }

    fn start(&mut self, job: Job) {
        // The last new token is chosen but never fed to the model.
        let positions = (job.prompt.len() + job.new_tokens).saturating_sub(1);
        let events = job.events.clone();
        let started = self.batch.add(positions).map_err(Failed::from).and_then(|sequence| {
            let active = Active::new(job, sequence, &self.served.tokenizer);
            active.inspect_err(|_| self.batch.remove(sequence))
        });
        match started {
            Ok(active) => {
                self.metrics.running.fetch_add(1, Ordering::Relaxed);
                self.metrics.prompt_tokens.fetch_add(active.ids.len() as u64, Ordering::Relaxed);
                self.active.push(active);
            }
            Err(error) => {
                // The client may be gone already.
                let _ = events.send(Event::Failed(error.to_string()));
            }
        }
    }

    /// Ends answers whose client has disconnected or whose time is over.
    fn drop_abandoned(&mut self) {
        let now = Instant::now();
        for index in (0..self.active.len()).rev() {
            let active = &mut self.active[index];
            if active.job.events.is_closed() {
                self.metrics.abandoned.fetch_add(1, Ordering::Relaxed);
                self.remove(index);
            } else if active.job.deadline <= now {
                active.expire();
                self.remove(index);
            }
        }
    }

    /// Runs one pass: the next token of every request whose prompt is processed, and parts of the other prompts.
    fn step(&mut self) {
        let clock = Instant::now();
        let mut prompt_rows = PROMPT_ROWS;
        let mut inputs = Vec::with_capacity(self.active.len());
        let mut given = Vec::with_capacity(self.active.len());
        for (index, active) in self.active.iter_mut().enumerate() {
            // With LongRoPE all positions are recomputed when a sequence outgrows the original context.
            let outgrown = self.model.check_growth(active.fed, active.ids.len()).is_err();
            if outgrown {
                self.batch.truncate(active.sequence, 0);
                active.fed = 0;
            }
            let pending = active.ids.len() - active.fed;
            let most = if pending == 1 || outgrown { pending } else { pending.min(prompt_rows) };
            if most == 0 {
                continue;
            }
            if pending > 1 {
                prompt_rows -= most.min(prompt_rows);
            }
            given.push((index, most));
        }
        for &(index, most) in &given {
            let active = &self.active[index];
            inputs.push((active.sequence, active.next_ids(most)));
        }
        if inputs.is_empty() {
            return;
        }
        let vocab = self.model.config().vocab_size;
        let logits = match self.batch.forward_last(&inputs) {
            Ok(logits) => logits,
            Err(error) => {
                tracing::error!("a pass failed, and with it {} answers: {error}", self.active.len());
                for active in &self.active {
                    active.send(Event::Failed(error.to_string()));
                }
                for index in (0..self.active.len()).rev() {
                    self.remove(index);
                }
                return;
            }
        };
        let mut finished = Vec::new();
        for (&(index, most), logits) in given.iter().zip(logits.chunks_exact(vocab)) {
            let active = &mut self.active[index];
            active.fed += most;
            if active.fed < active.ids.len() {
                continue;
            }
            let before = active.ids.len();
            match active.advance(logits) {
                Progress::Running => {}
                Progress::Finished => finished.push(index),
                Progress::Abandoned => {
                    self.metrics.abandoned.fetch_add(1, Ordering::Relaxed);
                    finished.push(index);
                }
            }
            self.metrics.new_tokens.fetch_add((active.ids.len() - before) as u64, Ordering::Relaxed);
        }
        for index in finished.into_iter().rev() {
            self.remove(index);
        }
        self.metrics.stepped(clock.elapsed());
    }

    fn remove(&mut self, index: usize) {
        let active = self.active.remove(index);
        self.batch.remove(active.sequence);
        self.metrics.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_is_noted_as_ended() {
        for panics in [true, false] {
            let ended = Arc::new(AtomicBool::new(false));
            let mark = EndMark(Arc::clone(&ended));
            let thread = std::thread::spawn(move || {
                let _mark = mark;
                assert!(!panics, "as a model might");
            });
            assert_eq!(thread.join().is_err(), panics);
            assert!(ended.load(Ordering::Relaxed));
        }
    }
}
