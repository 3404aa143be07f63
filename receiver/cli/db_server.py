"""What `kling-receiver db` does with a store on PostgreSQL."""

from collections.abc import Mapping, Sequence

from receiver.domain.errors import ConfigurationError
from receiver.settings.client import ClientSettings
from receiver.settings.secrets import is_stand_in
from receiver.store.postgres import maintenance
from receiver.store.postgres.database import Address
from receiver.store.postgres.migrate import migrate as apply_migrations


def address(client: ClientSettings) -> Address:
    """Return the address and the password of the database. Raises ConfigurationError."""
    password = client.store_password
    if password is None:
        return Address(url=client.store)
    if is_stand_in(password):
        raise ConfigurationError(
            ["store.password: its reference leads nowhere in this shell; set it as for the service"]
        )
    return Address(url=client.store, password=password.reveal())


async def migrate(client: ClientSettings) -> Sequence[str]:
    """Migrate the store; return the names of the steps. Raises StoreError."""
    return await apply_migrations(address(client))


async def check(client: ClientSettings) -> Sequence[str]:
    """Check the server's settings and the schema; return the faults."""
    return await maintenance.check(address(client))


async def stats(client: ClientSettings) -> Mapping[str, int]:
    """Return the number of rows and the size of the store. Raises StoreError."""
    return await maintenance.stats_at(address(client))
