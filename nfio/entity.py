"""fog05's entity model: what is defined (``Entity``) and what runs (``EntityInstance``).

An entity is a VNF's directory; its instance is the container or domain made from it.
nfio gives an entity at most one instance. These classes keep the state machine and
nothing else: who calls them has already done, or seen, what they record.
"""

from __future__ import annotations

from nfio.errors import AlreadyExists, NotFound, StateTransitionNotAllowedException
from nfio.states import State

_FROM: dict[str, tuple[frozenset[State], State]] = {
    "on_configured": (frozenset({State.DEFINED}), State.CONFIGURED),
    "on_start": (frozenset({State.CONFIGURED}), State.RUNNING),
    "on_pause": (frozenset({State.RUNNING}), State.PAUSED),
    "on_resume": (frozenset({State.PAUSED}), State.RUNNING),
    "on_stop": (frozenset({State.RUNNING, State.PAUSED}), State.CONFIGURED),
    "on_clean": (
        frozenset({State.CONFIGURED, State.RUNNING, State.PAUSED, State.ERROR}),
        State.DEFINED,
    ),
    "before_migrate": (frozenset({State.RUNNING}), State.TAKING_OFF),
    "after_migrate": (frozenset({State.TAKING_OFF, State.MIGRATING, State.LANDING}), State.RUNNING),
}


def _next(state: State, step: str) -> State:
    sources, target = _FROM[step]
    if state not in sources:
        raise StateTransitionNotAllowedException(
            f"{step} is not allowed in state {state.name}, "
            f"only in {', '.join(sorted(s.name for s in sources))}"
        )
    return target


class EntityInstance:
    """One incarnation of an entity on a hypervisor.

    Every ``on_*`` raises StateTransitionNotAllowedException (EBUSY) where fog05's state
    machine does not lead.
    """

    def __init__(self, uuid: str, entity_uuid: str) -> None:
        self.uuid = uuid
        self.entity_uuid = entity_uuid
        self._state = State.DEFINED

    def get_state(self) -> State:
        return self._state

    def set_state(self, state: State) -> None:
        """Record what the hypervisor, the authority on what runs, was seen to do."""
        self._state = state

    def on_configured(self, configuration: object = None) -> None:
        self._state = _next(self._state, "on_configured")

    def on_start(self) -> None:
        self._state = _next(self._state, "on_start")

    def on_pause(self) -> None:
        self._state = _next(self._state, "on_pause")

    def on_resume(self) -> None:
        self._state = _next(self._state, "on_resume")

    def on_stop(self) -> None:
        self._state = _next(self._state, "on_stop")

    def on_clean(self) -> None:
        self._state = _next(self._state, "on_clean")

    def before_migrate(self) -> None:
        self._state = _next(self._state, "before_migrate")

    def after_migrate(self) -> None:
        self._state = _next(self._state, "after_migrate")


class Entity:
    """A VNF as it is defined. Without an instance it is UNDEFINED or DEFINED."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self._defined = State.UNDEFINED
        self._instances: dict[str, EntityInstance] = {}

    def add_instance(self, instance_object: EntityInstance) -> None:
        """Raises AlreadyExists (EEXIST) for a second one: nfio gives a VNF one container."""
        if self._instances:
            raise AlreadyExists(f"entity {self.uuid} has an instance already")
        self._instances[instance_object.uuid] = instance_object

    def remove_instance(self, instance_object: EntityInstance) -> None:
        self._instances.pop(instance_object.uuid, None)

    def has_instance(self, instance_uuid: str) -> bool:
        return instance_uuid in self._instances

    def get_instance(self, instance_uuid: str) -> EntityInstance:
        try:
            return self._instances[instance_uuid]
        except KeyError:
            raise NotFound(f"entity {self.uuid} has no instance {instance_uuid}") from None

    @property
    def instance(self) -> EntityInstance | None:
        """The one instance, if there is one."""
        return next(iter(self._instances.values()), None)

    def get_state(self) -> State:
        instance = self.instance
        return self._defined if instance is None else instance.get_state()

    def set_state(self, state: State) -> None:
        """Record a state that was seen. DEFINED and UNDEFINED drop the instance."""
        if state in (State.DEFINED, State.UNDEFINED):
            self._instances.clear()
            self._defined = state
            return
        instance = self.instance
        if instance is None:
            instance = EntityInstance(self.uuid, self.uuid)
            self.add_instance(instance)
        self._defined = State.DEFINED
        instance.set_state(state)

    def on_defined(self) -> None:
        if self._defined is not State.UNDEFINED:
            raise StateTransitionNotAllowedException(f"entity {self.uuid} is defined already")
        self._defined = State.DEFINED

    def on_configured(self, configuration: object = None) -> None:
        if self._defined is not State.DEFINED:
            raise StateTransitionNotAllowedException(f"entity {self.uuid} is not defined")
        instance = EntityInstance(self.uuid, self.uuid)
        self.add_instance(instance)
        instance.on_configured(configuration)

    def _one(self) -> EntityInstance:
        instance = self.instance
        if instance is None:
            raise StateTransitionNotAllowedException(
                f"entity {self.uuid} has no instance: it is {self._defined.name}"
            )
        return instance

    def on_start(self) -> None:
        self._one().on_start()

    def on_pause(self) -> None:
        self._one().on_pause()

    def on_resume(self) -> None:
        self._one().on_resume()

    def on_stop(self) -> None:
        self._one().on_stop()

    def on_clean(self) -> None:
        instance = self._one()
        instance.on_clean()
        self.remove_instance(instance)

    def before_migrate(self) -> None:
        self._one().before_migrate()

    def after_migrate(self) -> None:
        self._one().after_migrate()
