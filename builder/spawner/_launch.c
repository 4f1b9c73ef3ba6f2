/* SPDX-License-Identifier: GPL-3.0-or-later */
/* System calls, and lists of them, made by this process or by one that it launches.

   A fork copies the page tables of an interpreter, both processes then copy each page that
   they write to, and the exec takes the copy apart: more than a millisecond, all of it for
   some thirty system calls.  A launched process shares the memory of this one instead, which
   stands still until the other has executed its program or ended.  So everything is made ready
   here, and the new process only goes through the list.

   This process must have no thread: another one could change the ids that the new process has
   just given up, or the memory that it is reading.  */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The same on every machine, and newer than some headers.  */
#ifndef SYS_close_range
# define SYS_close_range 436
#endif
#ifndef SYS_landlock_restrict_self
# define SYS_landlock_restrict_self 446
#endif

/* Where the first call of a name takes ids of 16 bits, there is another one.  */
#ifdef SYS_setgroups32
# define NUMBER_SETGROUPS SYS_setgroups32
# define NUMBER_SETRESGID SYS_setresgid32
# define NUMBER_SETRESUID SYS_setresuid32
#else
# define NUMBER_SETGROUPS SYS_setgroups
# define NUMBER_SETRESGID SYS_setresgid
# define NUMBER_SETRESUID SYS_setresuid
#endif

#define MAX_ARGUMENTS 6
#define STACK_SIZE (64 * 1024)

static const struct { const char *name; long number; } NUMBERS[] = {
  {"capset", SYS_capset},
  {"chdir", SYS_chdir},
  {"close_range", SYS_close_range},
  {"dup3", SYS_dup3},
  {"execve", SYS_execve},
  {"landlock_restrict_self", SYS_landlock_restrict_self},
  {"mount", SYS_mount},
  {"openat", SYS_openat},
  {"personality", SYS_personality},
  {"ppoll", SYS_ppoll},
  {"prctl", SYS_prctl},
  {"prlimit64", SYS_prlimit64},
  {"setgroups", NUMBER_SETGROUPS},
  {"setresgid", NUMBER_SETRESGID},
  {"setresuid", NUMBER_SETRESUID},
  {"setsid", SYS_setsid},
  {"umask", SYS_umask},
  {"write", SYS_write},
};

struct call {
  long number;
  long arguments[MAX_ARGUMENTS];
  unsigned takes_result; /* bit I: argument I is the result of the call before */
  int ends;              /* a result above 0 ends the process without a word */
};

struct list {
  PyObject *items; /* owns the items, and they own the memory that the arguments point to */
  Py_ssize_t count;
  struct call *calls;
  const char **strings; /* room for all arrays of strings */
  size_t used;
  Py_ssize_t failed; /* the position of the call that failed, or -1 */
  int error;
};

struct launch {
  struct list *list;
  sigset_t mask; /* the one that the program gets */
};

/* Only one process at a time runs on it, for the other stands still, and it never returns.  */
static char stack[STACK_SIZE] __attribute__ ((aligned (64)));

/* Go through a list.  Nothing in here may touch the interpreter: it may be running in memory
   that belongs to another process.  That syscall() sets errno does no harm, and is undone.  */
static void
carry_out (struct list *list)
{
  long result = 0;
  for (Py_ssize_t at = 0; at < list->count; at++)
    {
      struct call *call = &list->calls[at];
      long *a = call->arguments;
      for (int i = 0; i < MAX_ARGUMENTS; i++)
        if (call->takes_result & 1u << i)
          a[i] = result;
      result = syscall (call->number, a[0], a[1], a[2], a[3], a[4], a[5]);
      if (result == -1)
        {
          list->failed = at;
          list->error = errno;
          return;
        }
      if (call->ends && result > 0)
        _exit (1);
    }
}

/* What a launched process does.  A handler would run in the interpreter's memory, so none is
   left before signals may come; and an exec would reset them anyway.  */
static int
inhabit (void *argument)
{
  struct launch *launch = argument;
  struct sigaction action;
  for (int number = 1; number < NSIG; number++)
    if (sigaction (number, NULL, &action) == 0
        && action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN)
      {
        memset (&action, 0, sizeof action);
        action.sa_handler = SIG_DFL;
        sigaction (number, &action, NULL);
      }
  sigprocmask (SIG_SETMASK, &launch->mask, NULL);
  carry_out (launch->list);
  _exit (1);
}

/* Bytes become a pointer to them, a tuple of bytes an array of such, which NULL ends; None is
   NULL, and an ellipsis stands for the result of the call before.  */
static bool
read_argument (struct list *list, struct call *call, int i, PyObject *value)
{
  long *argument = &call->arguments[i];
  if (value == Py_None)
    *argument = 0;
  else if (value == Py_Ellipsis)
    call->takes_result |= 1u << i;
  else if (PyBytes_Check (value))
    *argument = (long) PyBytes_AS_STRING (value);
  else if (PyByteArray_Check (value))
    *argument = (long) PyByteArray_AS_STRING (value);
  else if (PyTuple_Check (value))
    {
      *argument = (long) &list->strings[list->used];
      for (Py_ssize_t at = 0; at < PyTuple_GET_SIZE (value); at++)
        {
          const char *text = PyBytes_AsString (PyTuple_GET_ITEM (value, at));
          if (text == NULL)
            return false;
          list->strings[list->used++] = text;
        }
      list->strings[list->used++] = NULL;
    }
  else
    {
      *argument = (long) PyLong_AsUnsignedLongMask (value);
      return !PyErr_Occurred ();
    }
  return true;
}

static bool
read_call (struct list *list, struct call *call, PyObject *item)
{
  const char *name;
  PyObject *arguments;
  if (!PyTuple_Check (item))
    {
      PyErr_SetString (PyExc_TypeError, "a call must be a tuple");
      return false;
    }
  if (!PyArg_ParseTuple (item, "sO!p", &name, &PyTuple_Type, &arguments, &call->ends))
    return false;
  size_t known = 0, last = sizeof NUMBERS / sizeof NUMBERS[0];
  while (known < last && strcmp (NUMBERS[known].name, name) != 0)
    known++;
  if (known == last || PyTuple_GET_SIZE (arguments) > MAX_ARGUMENTS)
    {
      PyErr_Format (PyExc_ValueError, "no system call `%s' with %zd arguments is known", name,
                    PyTuple_GET_SIZE (arguments));
      return false;
    }
  call->number = NUMBERS[known].number;
  for (int i = 0; i < PyTuple_GET_SIZE (arguments); i++)
    if (!read_argument (list, call, i, PyTuple_GET_ITEM (arguments, i)))
      return false;
  return true;
}

/* Give the number of pointers that the arrays of strings in an item take; malformed items,
   which read_call refuses before it uses any, count as none.  */
static size_t
count_strings (PyObject *item)
{
  size_t count = 0;
  if (!PyTuple_Check (item) || PyTuple_GET_SIZE (item) < 2
      || !PyTuple_Check (PyTuple_GET_ITEM (item, 1)))
    return 0;
  PyObject *arguments = PyTuple_GET_ITEM (item, 1);
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE (arguments); i++)
    if (PyTuple_Check (PyTuple_GET_ITEM (arguments, i)))
      count += (size_t) PyTuple_GET_SIZE (PyTuple_GET_ITEM (arguments, i)) + 1;
  return count;
}

static void
release_list (struct list *list)
{
  PyMem_Free (list->calls);
  PyMem_Free (list->strings);
  Py_XDECREF (list->items);
}

static bool
read_list (struct list *list, PyObject *calls)
{
  *list = (struct list) {.failed = -1};
  list->items = PySequence_Tuple (calls);
  if (list->items == NULL)
    return false;
  list->count = PyTuple_GET_SIZE (list->items);
  size_t strings = 0;
  for (Py_ssize_t at = 0; at < list->count; at++)
    strings += count_strings (PyTuple_GET_ITEM (list->items, at));
  list->calls = PyMem_Calloc ((size_t) list->count, sizeof *list->calls);
  list->strings = PyMem_Calloc (strings, sizeof *list->strings);
  bool good = list->calls != NULL && list->strings != NULL;
  if (!good)
    PyErr_NoMemory ();
  for (Py_ssize_t at = 0; good && at < list->count; at++)
    good = read_call (list, &list->calls[at], PyTuple_GET_ITEM (list->items, at));
  if (!good)
    release_list (list);
  return good;
}

static PyObject *
launch (PyObject *module, PyObject *calls)
{
  (void) module;
  struct list list;
  if (!read_list (&list, calls))
    return NULL;
  struct launch started = {.list = &list};
  sigset_t all;
  sigfillset (&all);
  sigprocmask (SIG_BLOCK, &all, &started.mask);
  int pidfd = -1;
  /* With CLONE_PARENT, the signal at the end is the one that this process ends with.  */
  int flags = CLONE_VM | CLONE_VFORK | CLONE_PARENT | CLONE_PIDFD;
  int pid = clone (inhabit, stack + STACK_SIZE, flags, &started, &pidfd);
  int error = errno;
  sigprocmask (SIG_SETMASK, &started.mask, NULL);
  Py_ssize_t failed = list.failed;
  int why = list.error;
  release_list (&list);
  if (pid == -1)
    {
      errno = error;
      return PyErr_SetFromErrno (PyExc_OSError);
    }
  return Py_BuildValue ("iini", pid, pidfd, failed, why);
}

static PyObject *
perform (PyObject *module, PyObject *calls)
{
  (void) module;
  struct list list;
  if (!read_list (&list, calls))
    return NULL;
  carry_out (&list);
  Py_ssize_t failed = list.failed;
  int why = list.error;
  release_list (&list);
  return Py_BuildValue ("ni", failed, why);
}

/* Make one call: its name for errors, its number, its arguments.  */
static PyObject *
call (PyObject *module, PyObject *const *given, Py_ssize_t count)
{
  (void) module;
  if (count < 2 || count > 2 + MAX_ARGUMENTS)
    {
      PyErr_SetString (PyExc_TypeError, "a call has a name, a number and up to six arguments");
      return NULL;
    }
  long number = PyLong_AsLong (given[1]);
  if (number == -1 && PyErr_Occurred ())
    return NULL;
  struct call made = {.number = number};
  struct list none = {0};
  for (Py_ssize_t i = 2; i < count; i++)
    if (PyTuple_Check (given[i]) || given[i] == Py_Ellipsis)
      {
        PyErr_SetString (PyExc_TypeError, "such an argument belongs to a list of calls");
        return NULL;
      }
    else if (!read_argument (&none, &made, (int) i - 2, given[i]))
      return NULL;
  long *a = made.arguments;
  long result = syscall (number, a[0], a[1], a[2], a[3], a[4], a[5]);
  if (result != -1)
    return PyLong_FromLong (result);
  int error = errno;
  PyObject *text = PyUnicode_FromFormat ("%U: %s", given[0], strerror (error));
  PyObject *arguments = text == NULL ? NULL : Py_BuildValue ("iN", error, text);
  if (arguments != NULL)
    PyErr_SetObject (PyExc_OSError, arguments);
  Py_XDECREF (arguments);
  return NULL;
}

static PyMethodDef methods[] = {
  {"call", (PyCFunction) (void (*) (void)) call, METH_FASTCALL, "Make one call."},
  {"launch", launch, METH_O, "Have a sibling of this process make the calls of a list."},
  {"perform", perform, METH_O, "Make the calls of a list."},
  {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
  PyModuleDef_HEAD_INIT,
  .m_name = "builder.spawner._launch",
  .m_doc = "Lists of system calls, made by this process or by one that it launches.",
  .m_size = 0,
  .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__launch (void)
{
  return PyModuleDef_Init (&definition);
}
