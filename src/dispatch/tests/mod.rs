mod broker;
mod order;
