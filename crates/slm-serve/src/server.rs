//! The server: accepting connections, and graceful shutdown.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::access::Access;
use crate::connection::Impatient;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::metrics::{Counted, Metrics};
use crate::model::ServedModel;
use crate::routes::{App, now, router};
use crate::scheduler::Queue;

/// Pause after the system failed to accept a connection, for example because no file descriptors are left.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// Options of a [`Server`].
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Key that requests must carry, if any.
    pub api_key: Option<String>,
    /// Limits that protect the server.
    pub limits: Limits,
}

/// A server that is bound to its address.
#[derive(Debug)]
pub struct Server {
    runtime: Runtime,
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
    model_thread: JoinHandle<Result<()>>,
}

impl Server {
    /// Binds `address`, such as `127.0.0.1:8080`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`Error::Bind`], [`Error::Start`], and [`Error::Model`] if the model cannot be decoded in host memory.
    pub fn bind(address: &str, served: ServedModel, options: ServerOptions) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("slm-http")
            .enable_all()
            .build()
            .map_err(Error::Start)?;
        let bound = runtime.block_on(TcpListener::bind(address)).and_then(|listener| {
            let address = listener.local_addr()?;
            Ok((listener, address))
        });
        let (listener, bound) =
            bound.map_err(|source| Error::Bind { address: address.to_owned(), source })?;
        let (served, metrics) = (Arc::new(served), Arc::new(Metrics::default()));
        let (queue, model_thread) = Queue::start(Arc::clone(&served), &options.limits, Arc::clone(&metrics))?;
        let app = Arc::new(App {
            served,
            queue,
            access: Access::new(options.api_key.as_deref()),
            limits: options.limits,
            metrics,
            started: now(),
            answers: AtomicU64::new(0),
        });
        Ok(Self { runtime, listener, address: bound, app, model_thread })
    }

    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` completes. The server then accepts nothing new and finishes the running answers.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the model's thread panicked; otherwise the error that this thread returned.
    pub fn run(self, stop: impl Future<Output = ()>) -> Result<()> {
        let Self { runtime, listener, app, model_thread, .. } = self;
        runtime.block_on(accept(&listener, &app, stop));
        // Dropping the app drops the queue, which ends the model's thread.
        drop(listener);
        drop(app);
        runtime.shutdown_timeout(Duration::from_secs(1));
        model_thread.join().map_err(|_| Error::Stopped)?
    }
}

async fn accept(listener: &TcpListener, app: &Arc<App>, stop: impl Future<Output = ()>) {
    let service = TowerToHyperService::new(router(Arc::clone(app)));
    let places = Arc::new(Semaphore::new(app.limits.connections.max(1)));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(app.limits.idle_time).keep_alive(true);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = async {
                // Connections beyond the limit wait in the system's backlog.
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            } => accepted,
        };
        let (Ok(place), accepted) = accepted else { break };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(REFUSED_PAUSE).await;
                continue;
            }
        };
        // Sends small parts of answers at once. If this cannot be set, they are sent a little later.
        let _ = stream.set_nodelay(true);
        let io = TokioIo::new(Impatient::new(stream, app.limits.idle_time));
        let connection = graceful.watch(http.serve_connection(io, service.clone()));
        let metrics = Arc::clone(&app.metrics);
        tokio::spawn(async move {
            let _counted = Counted::new(&metrics.connections);
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended: {error}");
            }
            drop(place);
        });
    }
    graceful.shutdown().await;
}
