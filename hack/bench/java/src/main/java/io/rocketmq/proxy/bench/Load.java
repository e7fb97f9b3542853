// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package io.rocketmq.proxy.bench;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;

/**
 * Load on RocketMQ's own gRPC proxy through RocketMQ's own SDK, without TLS. Arguments: the proxy's host:port, a topic, a consumer group, the
 * bytes of a body. It lives as long as its standard input, so that its JIT and connections stay warm from one round to the next; each line of the
 * input is a command, each answer one line of JSON on standard output:
 *
 * <pre>
 * send THREADS MILLIS      synchronous sends of one message
 * receive THREADS MILLIS   receives of up to 32 messages, each message acknowledged, the acknowledgements of a receive at once
 * </pre>
 *
 * An answer counts what came to an end: {"messages": n, "seconds": s, "p50": ms, "p99": ms} of a send, or of a receive with its acknowledgements.
 */
public final class Load implements AutoCloseable {
    private static final int BATCH = 32;
    // Longer than a run, so that nothing that waits for its acknowledgement comes again.
    private static final Duration INVISIBLE = Duration.ofSeconds(60);
    // How long a receive waits when there is nothing.
    private static final Duration AWAIT = Duration.ofSeconds(5);

    private final ClientServiceProvider provider = ClientServiceProvider.loadService();
    private final String topic;
    private final byte[] body;
    private final Producer producer;
    private final SimpleConsumer consumer;

    private Load(String endpoint, String topic, String group, int bytes) throws Exception {
        this.topic = topic;
        this.body = new byte[bytes];
        ClientConfiguration configuration = ClientConfiguration.newBuilder().setEndpoints(endpoint).enableSsl(false).build();
        producer = provider.newProducerBuilder().setClientConfiguration(configuration).setTopics(topic).build();
        consumer = provider.newSimpleConsumerBuilder().setClientConfiguration(configuration).setConsumerGroup(group)
            .setSubscriptionExpressions(Collections.singletonMap(topic, FilterExpression.SUB_ALL)).setAwaitDuration(AWAIT).build();
    }

    @Override
    public void close() throws Exception {
        producer.close();
        consumer.close();
    }

    /** One call; it answers how many messages it brought to an end. */
    private interface Call {
        int run() throws Exception;
    }

    private int send() throws Exception {
        Message message = provider.newMessageBuilder().setTopic(topic).setBody(body).build();
        producer.send(message);
        return 1;
    }

    private int receive() throws Exception {
        List<MessageView> got = consumer.receive(BATCH, INVISIBLE);
        List<CompletableFuture<Void>> acks = new ArrayList<>(got.size());
        for (MessageView message : got) {
            acks.add(consumer.ackAsync(message));
        }
        for (CompletableFuture<Void> ack : acks) {
            ack.get();
        }
        return got.size();
    }

    /** What one thread did. */
    private static final class Share {
        private long messages;
        private long[] nanos = new long[1024];
        private int calls;

        private void add(int n, long took) {
            messages += n;
            if (calls == nanos.length) {
                nanos = Arrays.copyOf(nanos, 2 * calls);
            }
            nanos[calls++] = took;
        }
    }

    private static Share drive(Call call, long until) throws Exception {
        Share share = new Share();
        while (System.nanoTime() < until) {
            long began = System.nanoTime();
            share.add(call.run(), System.nanoTime() - began);
        }
        return share;
    }

    private static String measure(Call call, int threads, long millis) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(threads);
        try {
            long began = System.nanoTime();
            long until = began + TimeUnit.MILLISECONDS.toNanos(millis);
            List<Future<Share>> running = new ArrayList<>();
            for (int i = 0; i < threads; i++) {
                running.add(pool.submit(() -> drive(call, until)));
            }
            long messages = 0;
            long[] all = new long[0];
            for (Future<Share> future : running) {
                Share share = future.get();
                messages += share.messages;
                int at = all.length;
                all = Arrays.copyOf(all, at + share.calls);
                System.arraycopy(share.nanos, 0, all, at, share.calls);
            }
            double seconds = (System.nanoTime() - began) / 1e9;
            Arrays.sort(all);
            return String.format(java.util.Locale.ROOT, "{\"messages\": %d, \"seconds\": %.6f, \"p50\": %.3f, \"p99\": %.3f}",
                messages, seconds, all[all.length / 2] / 1e6, all[(int) (all.length * 99L / 100)] / 1e6);
        } finally {
            pool.shutdownNow();
        }
    }

    private String command(String line) throws Exception {
        String[] words = line.trim().split(" +");
        if (words.length != 3) {
            throw new IllegalArgumentException("not a command: " + line);
        }
        int threads = Integer.parseInt(words[1]);
        long millis = Long.parseLong(words[2]);
        switch (words[0]) {
            case "send":
                return measure(this::send, threads, millis);
            case "receive":
                return measure(this::receive, threads, millis);
            default:
                throw new IllegalArgumentException("not a command: " + line);
        }
    }

    public static void main(String[] args) throws Exception {
        if (args.length != 4) {
            throw new IllegalArgumentException("arguments: host:port of the proxy, topic, consumer group, bytes of a body");
        }
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        try (Load load = new Load(args[0], args[1], args[2], Integer.parseInt(args[3]))) {
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                System.out.println(load.command(line));
            }
        }
    }
}
