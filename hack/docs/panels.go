// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

// hosts narrows a query to the chosen hosts, objects also to the chosen objects. The scrape keeps the metrics' own labels namespace and name
// (honorLabels), so they are those of a Producer or Consumer.
const (
	hosts   = `job="rocketmq-proxy-metrics", pod=~"$pod"`
	objects = hosts + `, namespace=~"$namespace", name=~"$name"`
)

// rate is the rate of a counter, now the value of a gauge, by labels.
func rate(metric, where, by string) string {
	return "sum by (" + by + ") (rate(" + metric + "{" + where + "}[$__rate_interval]))"
}

func now(metric, where, by string) string {
	return "sum by (" + by + ") (" + metric + "{" + where + "})"
}

// quantiles are the median and the 99th percentile of a histogram.
func quantiles(metric, by, legend string) []query {
	of := func(q string) string {
		return "histogram_quantile(" + q + ", sum by (le, " + by + ") (rate(" + metric + "_bucket{" + hosts + "}[$__rate_interval])))"
	}
	return []query{{"p50 " + legend, of("0.5")}, {"p99 " + legend, of("0.99")}}
}

func one(legend, expr string) []query { return []query{{legend, expr}} }

// rows is the whole dashboard: a row for each group of metrics.
var rows = []row{
	{"Objects and clients", []panel{
		{"Clients by state", "short", "One for each Producer and Consumer on each host.", one("{{kind}} {{state}}", now("rocketmq_proxy_clients", hosts, "kind, state"))},
		{"Clients in use", "short", "Calls and streams that hold clients now.", one("{{kind}}", now("rocketmq_proxy_client_uses", hosts, "kind"))},
		{"Transitions", "ops", "Changes of clients into a state.", one("{{kind}} {{state}}", rate("rocketmq_proxy_client_transitions_total", hosts, "kind, state"))},
		{"Client starts by result", "ops", "OK, or the reason.", one("{{kind}} {{driver}} {{result}}", rate("rocketmq_proxy_client_opens_total", hosts, "kind, driver, result"))},
		{"Time to start a client", "s", "", quantiles("rocketmq_proxy_client_open_duration_seconds", "kind", "{{kind}}")},
	}},
	{"Stopping", []panel{
		{"Drains by result", "ops", "clean, forced (still in use at the deadline), left (something could not be freed).", one("{{kind}} {{result}}", rate("rocketmq_proxy_drains_total", hosts, "kind, result"))},
		{"What became of messages in flight", "ops", "", one("{{kind}} {{outcome}}", rate("rocketmq_proxy_drained_messages_total", hosts, "kind, outcome"))},
		{"Time of drains", "s", "", quantiles("rocketmq_proxy_drain_duration_seconds", "kind", "{{kind}}")},
		{"Leaks found, finalizers forced", "short", "Both stay at 0.", []query{
			{"leaked {{kind}}", now("rocketmq_proxy_leaks_detected_total", hosts, "kind")}, {"forced {{kind}}", now("rocketmq_proxy_forced_finalizers_total", hosts, "kind")}}},
		{"Left behind by the library", "short", "Goroutines of closed clients, by function.", one("{{name}}", now("rocketmq_proxy_library_leftovers", hosts, "name"))},
	}},
	{"Calls", []panel{
		{"Calls by code", "ops", "", one("{{method}} {{protocol}} {{code}}", rate("rocketmq_proxy_calls_total", hosts, "method, protocol, code"))},
		{"Time of calls", "s", "A Pull's includes its wait; streams are not in it.", quantiles("rocketmq_proxy_call_duration_seconds", "method", "{{method}}")},
		{"Connections and streams", "short", "", []query{
			{"{{protocol}} connections", now("rocketmq_proxy_connections", hosts, "protocol")}, {"streams", "sum(rocketmq_proxy_streams{" + hosts + "})"}}},
		{"Turned away", "ops", "Connections beyond the limit; streams whose receiver did not read; panics that were caught.", []query{
			{"connections {{protocol}}", rate("rocketmq_proxy_connections_refused_total", hosts, "protocol")},
			{"not reading {{pod}}", rate("rocketmq_proxy_receivers_not_reading_total", hosts, "pod")}, {"panic {{place}}", rate("rocketmq_proxy_panics_total", hosts, "place")}}},
	}},
	{"Sending", []panel{
		{"Messages by result", "ops", "OK = stored by the broker, else the reason.", one("{{result}}", rate("rocketmq_proxy_sent_messages_total", objects, "result"))},
		{"Transactions", "ops", "What was begun and never ended is not delivered.", one("{{step}}", rate("rocketmq_proxy_transactions_total", objects, "step"))},
		{"Checks of transactions", "ops", "unanswered and failed ones come again, until RocketMQ gives up.", one("{{outcome}}", rate("rocketmq_proxy_transaction_checks_total", objects, "outcome"))},
		{"Messages by Producer", "ops", "", one("{{namespace}}/{{name}}", rate("rocketmq_proxy_sent_messages_total", objects, "namespace, name"))},
		{"Refused because too many waited", "ops", "", one("{{namespace}}/{{name}}", rate("rocketmq_proxy_send_refused_messages_total", objects, "namespace, name"))},
		{"Repeated ids", "ops", "Answered with the first result, and forgotten before their window was over.", []query{
			{"answered {{namespace}}/{{name}}", rate("rocketmq_proxy_deduplicated_messages_total", objects, "namespace, name")},
			{"forgotten {{namespace}}/{{name}}", rate("rocketmq_proxy_deduplication_forgotten_total", objects, "namespace, name")}}},
		{"Time of requests to the broker", "s", "", quantiles("rocketmq_proxy_send_request_duration_seconds", "pod", "{{pod}}")},
		{"Messages in one request", "short", "Above 1, waiting messages went together.", quantiles("rocketmq_proxy_send_request_messages", "pod", "{{pod}}")},
	}},
	{"Receiving", []panel{
		{"Deliveries", "ops", "", one("{{namespace}}/{{name}}", rate("rocketmq_proxy_deliveries_total", objects, "namespace, name"))},
		{"Redeliveries", "ops", "Of messages that had been delivered before.", one("{{namespace}}/{{name}}", rate("rocketmq_proxy_redeliveries_total", objects, "namespace, name"))},
		{"How deliveries end", "ops", "", one("{{outcome}}", rate("rocketmq_proxy_deliveries_ended_total", objects, "outcome"))},
		{"In flight, messages", "short", "", one("{{namespace}}/{{name}}", now("rocketmq_proxy_in_flight_messages", objects, "namespace, name"))},
		{"In flight, bytes", "bytes", "", one("{{namespace}}/{{name}}", now("rocketmq_proxy_in_flight_bytes", objects, "namespace, name"))},
		{"Waiting in RocketMQ", "short", "Not delivered yet, retries included; without what is in flight or delayed.", one("{{namespace}}/{{name}} {{topic}}", "max by (namespace, name, topic) (rocketmq_proxy_waiting_messages{"+objects+"})")},
		{"Age of the oldest that waits", "s", "", one("{{namespace}}/{{name}} {{topic}}", "max by (namespace, name, topic) (rocketmq_proxy_oldest_waiting_seconds{"+objects+"})")},
		{"Window full", "ops", "Times that fetching stopped although a receiver had credit.", one("{{namespace}}/{{name}}", rate("rocketmq_proxy_window_full_total", objects, "namespace, name"))},
		{"Receivers of broadcasting Consumers", "short", "On each host.", one("{{namespace}}/{{name}}", now("rocketmq_proxy_broadcast_receivers", objects, "namespace, name"))},
		{"Waiting for the slowest receiver", "short", "Messages that a broadcasting Consumer's receiver has not got yet.", one("{{namespace}}/{{name}}", now("rocketmq_proxy_broadcast_waiting_messages", objects, "namespace, name"))},
		{"Held back by rateLimit", "short", "Share of the time in which a receiver had to wait for it.", one("{{namespace}}/{{name}}", rate("rocketmq_proxy_rate_limited_seconds_total", objects, "namespace, name"))},
		{"Dead letters", "ops", "Given up, and given to their group again.", []query{
			{"given up {{namespace}}/{{name}}", rate("rocketmq_proxy_deliveries_ended_total", objects+`, outcome="dead_lettered"`, "namespace, name")},
			{"redriven {{namespace}}/{{name}}", rate("rocketmq_proxy_dead_letters_redriven_total", objects, "namespace, name")}}},
		{"Dead letters that wait", "short", "As of the last minute.", one("{{namespace}}/{{name}}", "max by (namespace, name) (rocketmq_proxy_dead_letters_left{"+objects+"})")},
		{"Failures towards the broker", "ops", "Each is repeated; nothing is lost.", []query{
			{"fetch {{namespace}}/{{name}}", rate("rocketmq_proxy_fetch_failures_total", objects, "namespace, name")},
			{"give back {{namespace}}/{{name}}", rate("rocketmq_proxy_give_back_failures_total", objects, "namespace, name")},
			{"dead letter {{namespace}}/{{name}}", rate("rocketmq_proxy_dead_letter_failures_total", objects, "namespace, name")}}},
	}},
	{"Process", []panel{
		{"Memory", "bytes", "Resident, as the kernel counts it, and GOMEMLIMIT.", []query{
			{"resident {{pod}}", "process_resident_memory_bytes{" + hosts + "}"}, {"{{area}} {{pod}}", now("rocketmq_proxy_memory_bytes", hosts, "area, pod")},
			{"GOMEMLIMIT {{pod}}", "go_gc_gomemlimit_bytes{" + hosts + "}"}}},
		{"Goroutines", "short", "", one("{{pod}}", now("rocketmq_proxy_goroutines", hosts, "pod"))},
		{"CPU", "short", "Cores in use.", one("{{pod}}", rate("process_cpu_seconds_total", hosts, "pod"))},
		{"Open files and sockets", "short", "", one("{{pod}}", now("process_open_fds", hosts, "pod"))},
		{"Days to the certificate's end", "d", "", one("{{pod}}", "(rocketmq_proxy_tls_certificate_expiry_timestamp_seconds{"+hosts+"} - time()) / 86400")},
		{"Keys of ack tokens", "s", "Time since the keys were read from their Secret, which happens each minute, and looks that met trouble.", []query{
			{"age {{pod}}", "time() - rocketmq_proxy_ack_keys_read_timestamp_seconds{" + hosts + "}"},
			{"{{trouble}}", now("rocketmq_proxy_ack_key_troubles_total", hosts, "trouble")}}},
		{"Questions between hosts", "ops", "Acknowledgements that reached another host than the one that delivered, by what became of the question. Many of not_asked or unknown: can hosts reach each other's gRPC port?",
			one("{{outcome}}", rate("rocketmq_proxy_peer_questions_total", hosts, "outcome"))},
		{"Version", "short", "", one("{{version}} {{go_version}}", now("rocketmq_proxy_build_info", hosts, "version, go_version"))},
	}},
}
