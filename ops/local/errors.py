"""The errors of the local stack.

StackError            the operator reads the message and acts; nothing is left half-running
├── ToolMissing       a program is not installed; the message has the command that installs it
├── DownloadFailed    a jar of the servers could not be fetched; the message names it and the cause
├── StartFailed       a server died or did not answer; the message ends with its log's last lines
│   └── PortTaken     another program took the port first; `up` chooses others and tries again
├── StopFailed         a process is alive after SIGKILL; the message has its pid
└── NotRunning        asked for the address of a stack that is not up
"""


class StackError(Exception):
    """The root: its text is meant for the person at the terminal."""


class ToolMissing(StackError):
    """Java, or what fetches the servers, is not installed."""


class DownloadFailed(StackError):
    """The servers' jar files could not be fetched."""


class StartFailed(StackError):
    """A server died before it answered, or did not answer in time."""


class PortTaken(StartFailed):
    """A server could not bind its port."""


class NotRunning(StackError):
    """The stack is not up."""


class StopFailed(StackError):
    """A process could not be ended."""
