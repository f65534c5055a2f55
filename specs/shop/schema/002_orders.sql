-- The shard key leads every primary key, so that a customer's rows live together on one shard and
-- foreign keys between them hold there.
create table orders (
    customer_id bigint not null references customers,
    id          bigint not null,
    status      text not null default 'open' check (status in ('open', 'paid', 'sent', 'cancelled')),
    placed      timestamptz not null default now(),
    primary key (customer_id, id)
);

create index orders_placed on orders (placed);

create table order_lines (
    customer_id bigint not null,
    order_id    bigint not null,
    line        integer not null,
    product     text not null,
    quantity    integer not null check (quantity > 0),
    price_cents bigint not null check (price_cents >= 0),
    primary key (customer_id, order_id, line),
    foreign key (customer_id, order_id) references orders (customer_id, id) on delete cascade
);

create index order_lines_product on order_lines (product);
