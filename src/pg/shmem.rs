//! Shared memory of two forms: [`Slots`], plain values with a row array each, under one lightweight lock, and
//! a condition variable per slot; and [`PerProcess`], atomics of the server and of each of its processes.

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::mem::size_of;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use pgrx::pg_guard;
use pgrx::pg_sys;

use super::wait_event::{self, WaitEvent};

/// Something that wants shared memory from the postmaster.
pub trait SharedArea: Sync {
    /// Asks for memory and locks; called once the settings are known.
    fn request(&self);
    /// Finds the memory, and fills it at the server's first start and after each crash restart.
    fn startup(&self);
}

/// What may lie in shared memory.
///
/// Owners say it of their types with [`shareable!`], beside their definition.
///
/// # Safety
/// The type must hold no reference, pointer or function, which would mean nothing in another process.
pub unsafe trait Shareable: Send + Sync + 'static {}

/// Says of types of the calling module that their values may lie in shared memory.  Does not compile for what
/// needs to be dropped, is not `Send` and `Sync` (raw pointers and cells are not), or borrows from anything.
///
/// What the compiler cannot see, the caller answers for: no field, however deep, may be a reference to a
/// constant, a function or an atomic pointer.
macro_rules! shareable {
    ($($type:ty),+ $(,)?) => {$(
        const _: () = assert!(
            !::core::mem::needs_drop::<$type>(),
            "nothing in shared memory is ever dropped",
        );
        // SAFETY: numbers, enums of numbers, and arrays of them, as whoever names the type here vouches for.
        #[allow(unsafe_code)]
        unsafe impl $crate::pg::shmem::Shareable for $type {}
    )+};
}
pub(crate) use shareable;

shareable! { u8 }

/// `S` per slot, and for each slot a number of rows `R`.
///
/// Everything is reached through [`Guard`], that is under the lock.  Nothing that can raise an error
/// or wait may be called while a guard lives; the values are copied in and out.
pub struct Slots<S, R> {
    name: &'static CStr,
    sizes: fn() -> (usize, usize),
    unused: (S, R),
    memory: AtomicPtr<SlotMemory<S>>,
    rows: AtomicPtr<R>,
    lock: AtomicPtr<pg_sys::LWLock>,
    count: AtomicUsize,
    rows_per_slot: AtomicUsize,
}

#[repr(C)]
struct SlotMemory<S> {
    changed: pg_sys::ConditionVariable,
    value: S,
}

impl<S: Shareable + Copy, R: Shareable + Copy> Slots<S, R> {
    /// `sizes` tells how many slots there are and how many rows each has, once settings are known.
    pub const fn new(name: &'static CStr, sizes: fn() -> (usize, usize), unused: (S, R)) -> Self {
        Self {
            name,
            sizes,
            unused,
            memory: AtomicPtr::new(std::ptr::null_mut()),
            rows: AtomicPtr::new(std::ptr::null_mut()),
            lock: AtomicPtr::new(std::ptr::null_mut()),
            count: AtomicUsize::new(0),
            rows_per_slot: AtomicUsize::new(0),
        }
    }

    /// Whether the postmaster has made the memory: false where the library was not preloaded.
    pub fn is_ready(&self) -> bool {
        !self.memory.load(Ordering::Relaxed).is_null()
    }

    /// Takes the lock; `None` where the postmaster has not made the memory.
    pub fn lock(&self) -> Option<Guard<'_, S, R>> {
        if !self.is_ready() {
            return None;
        }
        let lock = self.lock.load(Ordering::Relaxed);
        // SAFETY: startup() stored the lock before the memory, which is there.
        unsafe {
            pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        }
        Some(Guard { slots: self, lock, not_send: PhantomData })
    }

    /// Wakes whoever waits for a change of the slot.  Call after the guard is gone.
    pub fn notify(&self, slot: usize) {
        // SAFETY: the condition variable lives in shared memory for as long as the server.
        unsafe { pg_sys::ConditionVariableBroadcast(self.changed(slot)) }
    }

    /// From now until the guard is dropped, a change of the slot sets this process' latch once.
    pub fn listen(&self, slot: usize) -> Listening {
        // SAFETY: as in notify(); at most one condition variable is waited for at a time, and
        // preparing another cancels the first, so the worst is a missed wake-up that never happens
        // because nothing else in the extension listens.
        unsafe { pg_sys::ConditionVariablePrepareToSleep(self.changed(slot)) }
        Listening
    }

    fn changed(&self, slot: usize) -> *mut pg_sys::ConditionVariable {
        assert!(slot < self.count.load(Ordering::Relaxed), "no such slot");
        // SAFETY: the index is checked, and the array lives as long as the server.
        unsafe { &raw mut (*self.memory.load(Ordering::Relaxed).add(slot)).changed }
    }
}

impl<S: Shareable + Copy, R: Shareable + Copy> SharedArea for Slots<S, R> {
    fn request(&self) {
        let (count, rows_per_slot) = (self.sizes)();
        let bytes = count * size_of::<SlotMemory<S>>() + count * rows_per_slot * size_of::<R>();
        // SAFETY: called from the shared memory request hook, where both calls are allowed.
        unsafe {
            // A little more for the alignment of two allocations.
            pg_sys::RequestAddinShmemSpace(bytes + 256);
            pg_sys::RequestNamedLWLockTranche(self.name.as_ptr(), 1);
        }
    }

    fn startup(&self) {
        let (count, rows_per_slot) = (self.sizes)();
        let rows_name = named(self.name, "rows");
        // SAFETY: called from the shared memory start-up hook of the postmaster.  The structures are
        // allocated with the sizes they are used with, and filled before anyone sees them.
        unsafe {
            let memory = with_new_memory(self.name, count * size_of::<SlotMemory<S>>(), |memory| {
                let memory = memory.cast::<SlotMemory<S>>();
                for slot in 0..count {
                    pg_sys::ConditionVariableInit(&raw mut (*memory.add(slot)).changed);
                    std::ptr::write(&raw mut (*memory.add(slot)).value, self.unused.0);
                }
            });
            let bytes = (count * rows_per_slot * size_of::<R>()).max(1);
            let rows = with_new_memory(&rows_name, bytes, |rows| {
                for row in 0..count * rows_per_slot {
                    std::ptr::write(rows.cast::<R>().add(row), self.unused.1);
                }
            });
            let lock = pg_sys::GetNamedLWLockTranche(self.name.as_ptr());
            self.lock.store(&raw mut (*lock).lock, Ordering::Relaxed);
            self.rows.store(rows.cast(), Ordering::Relaxed);
            self.count.store(count, Ordering::Relaxed);
            self.rows_per_slot.store(rows_per_slot, Ordering::Relaxed);
            self.memory.store(memory.cast(), Ordering::Relaxed);
        }
    }
}

/// The name of a part of an area.
fn named(area: &CStr, part: &str) -> CString {
    CString::new(format!("{} {part}", area.to_string_lossy())).unwrap_or_default()
}

/// One `S` for the server and one `P` for each place in its array of processes.  They are made of atomics, so
/// that nobody takes a lock to read them, and a condition variable comes with them.
pub struct PerProcess<S, P> {
    name: &'static CStr,
    server: AtomicPtr<ServerMemory<S>>,
    processes: AtomicPtr<P>,
    count: AtomicU32,
}

#[repr(C)]
struct ServerMemory<S> {
    changed: UnsafeCell<pg_sys::ConditionVariable>,
    value: S,
}

impl<S: Shareable + Default, P: Shareable + Default> PerProcess<S, P> {
    /// An area of that name.
    pub const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            server: AtomicPtr::new(std::ptr::null_mut()),
            processes: AtomicPtr::new(std::ptr::null_mut()),
            count: AtomicU32::new(0),
        }
    }

    fn memory(&self) -> Option<&'static ServerMemory<S>> {
        // SAFETY: stored once the memory was filled, which lives as long as the server.  Only shared
        // references are ever made, and the server's own functions alone touch the condition variable.
        unsafe { self.server.load(Ordering::Relaxed).as_ref() }
    }

    /// The server's part; `None` where the library was not preloaded.
    pub fn server(&self) -> Option<&'static S> {
        self.memory().map(|memory| &memory.value)
    }

    /// How many places there are for processes.
    pub fn places(&self) -> i32 {
        self.count.load(Ordering::Relaxed) as i32
    }

    /// The part of the process at that place.  Who takes a place over finds what was left there.
    pub fn process(&self, place: i32) -> Option<&'static P> {
        let processes = self.processes.load(Ordering::Relaxed);
        if processes.is_null() || place < 0 || place >= self.places() {
            return None;
        }
        // SAFETY: the index is checked; the memory lives as long as the server, and only shared references
        // to it are ever made.
        Some(unsafe { &*processes.add(place as usize) })
    }

    /// Wakes all who sleep in [`Self::sleep_until`].
    pub fn wake(&self) {
        if let Some(memory) = self.memory() {
            // SAFETY: the condition variable was initialized, and lives as long as the server.
            unsafe { pg_sys::ConditionVariableBroadcast(memory.changed.get()) }
        }
    }

    /// Sleeps until that is so; whoever makes it so wakes the sleepers afterwards.  Serves interrupts, and calls
    /// `now_and_then` once a second.
    #[allow(clippy::let_unit_value, reason = "it has returned a bool since PostgreSQL 16")]
    pub fn sleep_until(&self, is_so: impl Fn() -> bool, now_and_then: impl Fn()) {
        const MS: core::ffi::c_long = 1_000;
        let Some(memory) = self.memory() else { return };
        // SAFETY: as in wake(); this process sleeps on nothing else meanwhile.  An ERROR out of the sleep
        // cancels it in the abort.
        unsafe {
            pg_sys::ConditionVariablePrepareToSleep(memory.changed.get());
            while !is_so() {
                let changed = memory.changed.get();
                if pg_sys::ConditionVariableTimedSleep(changed, MS, WaitEvent::State.number()) {
                    now_and_then();
                }
            }
            let _ = pg_sys::ConditionVariableCancelSleep();
        }
    }
}

/// A place per process that can run a transaction.
fn process_count() -> usize {
    // SAFETY: settled before shared memory is asked for.
    unsafe { pg_sys::MaxBackends.max(0) as usize }
}

impl<S: Shareable + Default, P: Shareable + Default> SharedArea for PerProcess<S, P> {
    fn request(&self) {
        let bytes = size_of::<ServerMemory<S>>() + process_count() * size_of::<P>();
        // SAFETY: called from the shared memory request hook.
        unsafe { pg_sys::RequestAddinShmemSpace(bytes + 512) }
    }

    fn startup(&self) {
        let count = process_count();
        // SAFETY: called from the shared memory start-up hook; the structures are allocated with the sizes
        // they are used with, on lines of the processor's cache, and filled before anyone sees them.
        unsafe {
            let server = with_new_memory(self.name, size_of::<ServerMemory<S>>(), |server| {
                let server = server.cast::<ServerMemory<S>>();
                pg_sys::ConditionVariableInit(UnsafeCell::raw_get(&raw const (*server).changed));
                std::ptr::write(&raw mut (*server).value, S::default());
            });
            let name = named(self.name, "processes");
            let processes = with_new_memory(&name, count * size_of::<P>(), |processes| {
                for place in 0..count {
                    std::ptr::write(processes.cast::<P>().add(place), P::default());
                }
            });
            self.processes.store(processes.cast(), Ordering::Relaxed);
            self.count.store(count as u32, Ordering::Relaxed);
            self.server.store(server.cast(), Ordering::Relaxed);
        }
    }
}

/// A number that is drawn when the memory is made: at the server's start, and after each crash.  No other server has
/// it, nor does a copy of this one.
pub struct Drawn {
    name: &'static CStr,
    memory: AtomicPtr<u64>,
}

impl Drawn {
    /// One of that name.
    pub const fn new(name: &'static CStr) -> Self {
        Self { name, memory: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// The number; `None` where the library was not preloaded.
    pub fn number(&self) -> Option<u64> {
        // SAFETY: stored once the memory was filled, which lives as long as the server and does not change.
        unsafe { self.memory.load(Ordering::Relaxed).as_ref().copied() }
    }
}

impl SharedArea for Drawn {
    fn request(&self) {
        // SAFETY: called from the shared memory request hook.
        unsafe { pg_sys::RequestAddinShmemSpace(size_of::<u64>() + 512) }
    }

    fn startup(&self) {
        // SAFETY: called from the shared memory start-up hook; the structure is allocated with the size it is
        // used with, and filled before anyone sees it.
        let memory = unsafe {
            with_new_memory(self.name, size_of::<u64>(), |memory| {
                let memory = memory.cast::<u64>();
                std::ptr::write(memory, 0);
                if !pg_sys::pg_strong_random(memory.cast(), size_of::<u64>()) {
                    // Without a source of chance, who and when has to do.
                    let now = pg_sys::GetCurrentTimestamp() as u64;
                    std::ptr::write(memory, now.rotate_left(20) ^ pg_sys::MyProcPid as u64);
                }
            })
        };
        self.memory.store(memory.cast(), Ordering::Relaxed);
    }
}

/// The shared memory of that name, filled by `fill` when it is new.
///
/// # Safety
/// Call from [`SharedArea::startup`]; `fill` must not raise an error, and must leave all `bytes` valid for
/// what the caller takes them for.
unsafe fn with_new_memory(
    name: &CStr,
    bytes: usize,
    fill: impl FnOnce(*mut core::ffi::c_void),
) -> *mut core::ffi::c_void {
    // SAFETY: the caller's conditions; the add-in lock is held over the allocation as PostgreSQL asks.
    unsafe {
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let mut found = false;
        let memory = pg_sys::ShmemInitStruct(name.as_ptr(), bytes, &mut found);
        if !found {
            fill(memory);
        }
        pg_sys::LWLockRelease(lock);
        memory
    }
}

/// Place of `AddinShmemInitLock` among the server's own locks, the same in PostgreSQL 15 to 18.
const ADDIN_SHMEM_INIT_LOCK: usize = 21;

/// The lock, held.  Slots and rows are reached through it.
pub struct Guard<'a, S, R> {
    slots: &'a Slots<S, R>,
    lock: *mut pg_sys::LWLock,
    not_send: PhantomData<*mut S>,
}

impl<S, R> Guard<'_, S, R> {
    /// Number of slots.
    pub fn len(&self) -> usize {
        self.slots.count.load(Ordering::Relaxed)
    }

    /// Rows that each slot has room for.
    pub fn rows_per_slot(&self) -> usize {
        self.slots.rows_per_slot.load(Ordering::Relaxed)
    }

    /// The slot's value, to be changed.
    pub fn slot(&mut self, slot: usize) -> &mut S {
        assert!(slot < self.len(), "no such slot");
        // SAFETY: the index is checked, the memory lives as long as the server, and the lock makes
        // this the only reference.
        unsafe { &mut (*self.slots.memory.load(Ordering::Relaxed).add(slot)).value }
    }

    /// The slot's rows, to be changed.
    pub fn rows(&mut self, slot: usize) -> &mut [R] {
        assert!(slot < self.len(), "no such slot");
        let rows = self.rows_per_slot();
        // SAFETY: as in slot(); the array has `rows` rows for each slot.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.slots.rows.load(Ordering::Relaxed).add(slot * rows),
                rows,
            )
        }
    }
}

impl<S, R> Drop for Guard<'_, S, R> {
    fn drop(&mut self) {
        // SAFETY: this process took the lock in lock(), and nothing that could have released it
        // behind our back (an aborted transaction) runs while a guard lives.
        unsafe { pg_sys::LWLockRelease(self.lock) }
    }
}

/// Ends the listening when dropped.
pub struct Listening;

impl Drop for Listening {
    #[allow(clippy::let_unit_value, reason = "it has returned a bool since PostgreSQL 16")]
    fn drop(&mut self) {
        // SAFETY: cancelling when nothing is prepared does nothing.
        unsafe {
            let _ = pg_sys::ConditionVariableCancelSleep();
        }
    }
}

static mut AREAS: &[&dyn SharedArea] = &[];
static mut NEXT_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut NEXT_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Has the areas made.  Call once, from `_PG_init` of a preloaded library.
pub fn install(areas: &'static [&'static dyn SharedArea]) {
    // SAFETY: _PG_init runs once, in the single-threaded postmaster.
    unsafe {
        AREAS = areas;
        NEXT_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(on_request);
        NEXT_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(on_startup);
    }
}

#[pg_guard]
extern "C-unwind" fn on_request() {
    // SAFETY: set by install() in this process; the next hook is a valid function.
    unsafe {
        if let Some(next) = NEXT_REQUEST {
            pgrx::pg_sys::ffi::pg_guard_ffi_boundary(|| next());
        }
        for area in AREAS {
            area.request();
        }
    }
}

#[pg_guard]
extern "C-unwind" fn on_startup() {
    // SAFETY: as in on_request().
    unsafe {
        if let Some(next) = NEXT_STARTUP {
            pgrx::pg_sys::ffi::pg_guard_ffi_boundary(|| next());
        }
        for area in AREAS {
            area.startup();
        }
        wait_event::register();
    }
}
