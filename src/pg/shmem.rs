//! Shared memory: slots of plain values with a row array each, under one lightweight lock, and a
//! condition variable per slot.

use std::marker::PhantomData;
use std::mem::size_of;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pgrx::pg_guard;
use pgrx::pg_sys;

/// Something that wants shared memory from the postmaster.
pub trait SharedArea: Sync {
    /// Asks for memory and locks; called once the settings are known.
    fn request(&self);
    /// Finds the memory, and fills it at the server's first start and after each crash restart.
    fn startup(&self);
}

/// Plain values that may lie in shared memory: no pointers, no drop, valid whoever wrote them.
///
/// # Safety
/// The type must hold no pointer or reference into any process' private memory.
pub unsafe trait Shareable: Copy + 'static {}

// SAFETY: numbers, enums and byte arrays; no pointers.
unsafe impl Shareable for crate::block::state::Block {}
// SAFETY: as above.
unsafe impl Shareable for crate::block::NodeRow {}
// SAFETY: numbers.
unsafe impl Shareable for crate::block::HandoverHead {}
// SAFETY: a number.
unsafe impl Shareable for u8 {}

/// `S` per slot, and for each slot a number of rows `R`.
///
/// Everything is reached through [`Guard`], that is under the lock.  Nothing that can raise an error
/// or wait may be called while a guard lives; the values are copied in and out.
pub struct Slots<S: Shareable, R: Shareable> {
    name: &'static core::ffi::CStr,
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

impl<S: Shareable + Sync, R: Shareable + Sync> Slots<S, R> {
    /// `sizes` tells how many slots there are and how many rows each has, once settings are known.
    pub const fn new(
        name: &'static core::ffi::CStr,
        sizes: fn() -> (usize, usize),
        unused: (S, R),
    ) -> Self {
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

    /// Takes the lock.  Call only when [`Self::is_ready`].
    pub fn lock(&self) -> Guard<'_, S, R> {
        let lock = self.lock.load(Ordering::Relaxed);
        // SAFETY: is_ready() is the callers' duty, and startup() stored the lock before the memory.
        unsafe {
            pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        }
        Guard { slots: self, lock, not_send: PhantomData }
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

impl<S: Shareable + Sync, R: Shareable + Sync> SharedArea for Slots<S, R> {
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
        let rows_name = format!("{} rows\0", self.name.to_string_lossy());
        // SAFETY: called from the shared memory start-up hook of the postmaster.  The structures
        // are allocated with the sizes they are used with, and filled before anyone sees them; the
        // add-in lock is held over the allocation as PostgreSQL asks.
        unsafe {
            pg_sys::LWLockAcquire(
                &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock,
                pg_sys::LWLockMode::LW_EXCLUSIVE,
            );
            let mut found = false;
            let memory = pg_sys::ShmemInitStruct(
                self.name.as_ptr(),
                count * size_of::<SlotMemory<S>>(),
                &mut found,
            )
            .cast::<SlotMemory<S>>();
            let mut rows_found = false;
            let rows = pg_sys::ShmemInitStruct(
                rows_name.as_ptr().cast(),
                (count * rows_per_slot * size_of::<R>()).max(1),
                &mut rows_found,
            )
            .cast::<R>();
            if !found {
                for slot in 0..count {
                    pg_sys::ConditionVariableInit(&raw mut (*memory.add(slot)).changed);
                    std::ptr::write(&raw mut (*memory.add(slot)).value, self.unused.0);
                    for row in 0..rows_per_slot {
                        std::ptr::write(rows.add(slot * rows_per_slot + row), self.unused.1);
                    }
                }
            }
            let lock = pg_sys::GetNamedLWLockTranche(self.name.as_ptr());
            self.lock.store(&raw mut (*lock).lock, Ordering::Relaxed);
            self.rows.store(rows, Ordering::Relaxed);
            self.count.store(count, Ordering::Relaxed);
            self.rows_per_slot.store(rows_per_slot, Ordering::Relaxed);
            self.memory.store(memory, Ordering::Relaxed);
            pg_sys::LWLockRelease(
                &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock,
            );
        }
    }
}

/// The shared memory of that name, filled by `fill` when it is new.
///
/// # Safety
/// Call from [`SharedArea::startup`]; `fill` must not raise an error, and must leave all `bytes` valid for
/// what the caller takes them for.
pub unsafe fn with_new_memory(
    name: &core::ffi::CStr,
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
pub struct Guard<'a, S: Shareable, R: Shareable> {
    slots: &'a Slots<S, R>,
    lock: *mut pg_sys::LWLock,
    not_send: PhantomData<*mut S>,
}

impl<S: Shareable, R: Shareable> Guard<'_, S, R> {
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

impl<S: Shareable, R: Shareable> Drop for Guard<'_, S, R> {
    fn drop(&mut self) {
        // SAFETY: this process took the lock in acquire(), and nothing that could have released it
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
    }
}
