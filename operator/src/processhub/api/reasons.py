"""The fixed vocabulary: reasons of conditions and events, states, roles, restart policies.

docs/reference/reasons.md is generated from the texts below the values.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The reasons of a Child's conditions. Conditions of a Hub and a ChildSet have some of them too.

    The reasons down to ``Invalid`` are used by Accepted and Placed, the others by Ready. If the child is not accepted
    or not placed, Ready has the reason of that condition.
    """

    ACCEPTED = "Accepted"
    """Accepted is True: the object is valid and is reconciled."""
    PLACED = "Placed"
    """Placed is True: the child is on record on the members in status.nodes."""
    WAITING = "Waiting"
    """The child is about to be placed, or a PreChildStart hook has not answered yet, or the API server has not checked
    the edited template of a pod child yet. The message says which."""
    MISSING_CHILD_MAPPING = "MissingChildMapping"
    """The hub's strategy is Guided, and spec.nodes is missing."""
    INVALID_CHILD_MAPPING = "InvalidChildMapping"
    """spec.nodes names a member twice or a member that the hub does not have, or the hub's strategy is not Guided."""
    CHILD_REPLICATION_MISMATCH = "ChildReplicationMismatch"
    """spec.nodes names more or fewer members than the hub keeps copies of a child."""
    ALREADY_STARTED = "AlreadyStarted"
    """The id belongs to another Child or ChildSet. This one starts when the id is free."""
    HUB_NOT_FOUND = "HubNotFound"
    """There is no Hub of that name in the namespace."""
    NO_MEMBERS = "NoMembers"
    """No member may take the child now: none is ready, all have weight 0, or the strategy excludes the ready ones."""
    PARTITIONED = "Partitioned"
    """The hub has lost its quorum. Its children are stopped, and start again when the quorum is back."""
    CAPACITY_EXCEEDED = "CapacityExceeded"
    """Each member that may take the child has spec.members.maxChildren children."""
    HOOK_DENIED = "HookDenied"
    """A PreChildStart hook denied the start. The message has the hook's name and its reason."""
    MEMBER_UNAVAILABLE = "MemberUnavailable"
    """The child is guided or pinned, and its member is away or emptied by force. It waits for that member."""
    UNKNOWN_STRATEGY = "UnknownStrategy"
    """The Hub names a strategy that is not installed. The message lists the installed ones."""
    NOT_SUPPORTED_YET = "NotSupportedYet"
    """A field that this version does not support yet (at present none). The message says what to write instead."""
    NAME_CONFLICT = "NameConflict"
    """An object with the name of one that ProcessHub has to create exists, and has another owner."""
    SUSPENDED = "Suspended"
    """spec.suspend is true, of the object itself or of its Hub."""
    INVALID = "Invalid"
    """The object is not valid. The message names the field and what to write."""

    UPDATING = "Updating"
    """Reconciling: the latest edit, or a move, is not in effect everywhere yet. The message says what is left."""
    STARTED = "Started"
    """Ready is True: the child runs."""
    STARTING = "Starting"
    """The child's member has begun to start it."""
    STOPPING = "Stopping"
    """The child is not on record any more, and its process has not ended yet."""
    PENDING = "Pending"
    """The child's member has not begun to start it yet, or is restarting."""
    COMPLETED = "Completed"
    """The child ended with success, and its restartPolicy does not restart it."""
    IDLE = "Idle"
    """No request came for the child's idleSeconds. It is about to be deleted."""
    RESTARTING = "Restarting"
    """Pod children only: the child's Pod is being deleted, and a new one follows."""
    BACK_OFF = "BackOff"
    """Pod children only: a container of the child's Pod keeps failing, and Kubernetes waits before it restarts it."""
    START_TIMEOUT = "StartTimeout"
    """The child was not up within timeouts.startSeconds. It is restarted."""
    EXITED = "Exited"
    """The child ended with a failure. The message says how, and when it is restarted if it is."""
    OUT_OF_MEMORY = "OutOfMemory"
    """The child was ended because it used most of the member's memory, of which hardly any was left."""
    COMMAND_NOT_FOUND = "CommandNotFound"
    """The program of an exec child or of a Pod's container can't be found or run. It is tried again, with back-off."""
    WORKING_DIR_NOT_FOUND = "WorkingDirNotFound"
    """The workingDir of an exec child does not exist, or can't be entered. It is tried again, with back-off."""
    ENV_FILE_NOT_READABLE = "EnvFileNotReadable"
    """The file of an exec child's env[].valueFrom.file can't be read. It is tried again, with back-off."""
    IMPORT_ERROR = "ImportError"
    """The module or class of a python child can't be loaded. It is tried again, with back-off."""
    RESTARTS_EXCEEDED = "RestartsExceeded"
    """The child ended more than restarts.max times within restarts.windowSeconds: Failed until its spec changes."""


class GroupReason(StrEnum):
    """Reasons that only conditions of a Hub or a ChildSet have."""

    MEMBERS_READY = "MembersReady"
    """Ready of a Hub is True: all its members are ready. The state of single children does not matter."""
    MEMBERS_NOT_READY = "MembersNotReady"
    """Ready of a Hub: some of its members are not ready, which the message names, or children wait and it has none."""
    NOT_REQUIRED = "NotRequired"
    """Quorate is True: Divergence needs no quorum."""
    QUORATE = "Quorate"
    """Quorate is True: as many members are live as the strategy requires."""
    FORMING = "Forming"
    """Quorate: the hub's first members have not all arrived, and nothing was started yet."""
    BALANCED = "Balanced"
    """Balanced is True: no move is under way or due."""
    REBALANCING = "Rebalancing"
    """Balanced: children are being moved, or are still to be moved. The message counts them."""
    ROLLOUT_STOPPED = "RolloutStopped"
    """Ready of a ChildSet: maxFailed children fail with the changed template. The others run on with the former one.

    Stalled of a Hub: the same of its children on demand, with the changed spec.onDemand.
    """
    STRANDED = "Stranded"
    """Balanced: a member that is to be removed or is drained has children that no other member may take.

    They are guided or pinned, or no member is left. The message names them.
    """
    REFUSED = "Refused"
    """Stalled of a Hub: the API server rejects something that the hub needs (a quota, a policy, rights)."""
    UNAVAILABLE = "Unavailable"
    """Stalled of a Hub: for some seconds the API server has failed or not answered. The message names the request."""
    CRD_OUTDATED = "CRDOutdated"
    """Stalled of a Hub: a CRD in the cluster lacks fields that this operator needs. The message names both."""
    UPDATING = "Updating"
    """Ready of a ChildSet, Reconciling of a Hub: some children still run the former template."""
    CHILDREN_FAILED = "ChildrenFailed"
    """Ready of a ChildSet: some children have failed. The message names them with their reasons."""


class EventReason(StrEnum):
    """Reasons of the Events that the operator posts (``kubectl get events``)."""

    PLACED = "Placed"
    """Child: it was placed for the first time. ChildSet, and Hub for children on demand: the number that were."""
    MOVED = "Moved"
    """Child: it moves from one member to another, and why. ChildSet, and Hub for children on demand: the number that
    do."""
    MEMBER_LOST = "MemberLost"
    """Hub: a member is proven gone, by which proof, and how many children were placed on others."""
    MEMBER_JOINED = "MemberJoined"
    """Hub: a member has arrived, for the first time or again."""
    PARTITION_ENTERED = "PartitionEntered"
    """Hub: it has lost its quorum and stops its children."""
    PARTITION_HEALED = "PartitionHealed"
    """Hub: it has a quorum again, and its children start."""
    HEALED = "Healed"
    """Hub with Divergence: a member that was cut off is back, and ends its copies of children that run elsewhere."""
    BACK_OFF = "BackOff"
    """Child: it keeps ending, and is restarted with back-off. The message has the cause; a new cause is a new Event.
    Hub: the children on demand that have begun to keep ending, with the cause of each."""
    REJECTED = "Rejected"
    """Child or ChildSet: it is not accepted, with the condition's reason and message. Hub: children that requests ask
    for are not started, and why."""
    PAUSED = "Paused"
    """Hub: it has the annotation ``processhub.dev/paused``, and is not reconciled any more."""
    RESUMED = "Resumed"
    """Hub: that annotation was removed, and the hub is reconciled again."""
    ANNOTATION_IGNORED = "AnnotationIgnored"
    """Hub: an annotation of ProcessHub does not exist, or its value means nothing, and what to write instead."""
    UNKNOWN_MEMBER = "UnknownMember"
    """Hub: its spec or an annotation names a member that it does not have, and those that it has. The condition
    Accepted, which stays True, says it too, until such a member joins."""
    FIELDS_IGNORED = "FieldsIgnored"
    """Child, ChildSet or Hub: its pod template has fields that the API server does not know. They have no effect."""
    STRATEGY_FAILED = "StrategyFailed"
    """Hub: a user's own strategy raised an error, and what is used instead."""
    MOVE_REFUSED = "MoveRefused"
    """Child, ChildSet or Hub: a request to move a child (``kubectl hub move``) can't be carried out, and why."""
    MOVE_DEFERRED = "MoveDeferred"
    """Child: it stays where it is instead of handing its state over, and why."""
    POD_CHANGED = "PodChanged"
    """Child, ChildSet or Hub: the marks that say which child a Pod belongs to were changed. They are restored."""
    OBJECT_PUT_BACK = "ObjectPutBack"
    """Hub: an object that it owns was deleted or changed, and by whom. The object is restored."""
    REFUSED = "Refused"
    """Hub, Child or ChildSet: a request that the API server rejects, with its message. It is retried."""
    HOOK_FAILED = "HookFailed"
    """Hub: a hook gave no valid answer, or could not be delivered."""


class State(StrEnum):
    """The state of one child on one member."""

    PENDING = "Pending"
    """The child is on record and not started: it waits for its member, or for the end of an earlier incarnation."""
    STARTING = "Starting"
    """The start has begun, and the child is not up yet."""
    RUNNING = "Running"
    """The child runs. A python child: its init has returned. A pod child: its Pod is Ready."""
    STOPPING = "Stopping"
    """The child was ordered to stop, and its process has not ended yet."""
    STOPPED = "Stopped"
    """The child does not run and is not to be started: suspended, or ended and not restarted by its restartPolicy."""
    FAILED = "Failed"
    """The child ended with a failure or did not start. The message says when it is restarted, if it is."""


class Role(StrEnum):
    """The role of a copy of a child."""

    ACTIVE = "Active"
    """The copy serves requests. With ActiveActive all copies do."""
    PASSIVE = "Passive"
    """The copy is a standby. It is promoted when the active copy is lost."""


class RestartPolicy(StrEnum):
    """When a child that ended is restarted."""

    PERMANENT = "Permanent"
    """Always."""
    TRANSIENT = "Transient"
    """After a failure: an exit code other than 0, a signal, an exception."""
    TEMPORARY = "Temporary"
    """Never."""


CRASH_ROUND = (State.STARTING, State.RUNNING, State.FAILED)  # the states of a child in a crash loop
WAITED_FOR = (Reason.IDLE, Reason.RESTARTS_EXCEEDED)  # reasons in those states that do not belong to a crash loop
