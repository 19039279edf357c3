import java.io.BufferedOutputStream;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.TreeMap;
import java.util.TreeSet;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * What a Kafka broker is asked, and made to write, when folders are compared.
 *
 *   create BROKER FILE            topics: a line each, "NAME PARTITIONS [KEY=VALUE ...]"
 *   golden BROKER STAGE           writes what the golden folders hold; stage 1, 2 or 3
 *   records BROKER ISOLATION      every record of every topic that is not internal, one JSON object a line
 *   questions BROKER              what may be asked of these topics, a line each (see ask)
 *   append BROKER TOPIC           one more record in partition 0, by a new producer, and where it is found afterwards: an offset
 *   coordinators BROKER           "group GROUP TOPIC PARTITION OFFSET EPOCH METADATA" and "transaction ID STATE", a line each
 *   ask BROKER FILE               the lines of FILE, cut to their first four words, and the broker's answers:
 *
 *     TOPIC PARTITION start 0                   the first offset
 *     TOPIC PARTITION end ISOLATION             one past the last offset a reader gets
 *     TOPIC PARTITION latest-time 0             the offset of the greatest timestamp, and that timestamp
 *     TOPIC PARTITION time MS                   the first offset at or after a time, and its timestamp
 *     TOPIC PARTITION read_committed OFFSET     the first record a reader that begins at OFFSET gets
 *     TOPIC PARTITION read_uncommitted OFFSET
 *
 * An answer is one or two numbers, or "none".
 */
public final class Folders {
    static final PrintStream OUT = new PrintStream(
        new BufferedOutputStream(new FileOutputStream(FileDescriptor.out), 1 << 16), false, StandardCharsets.UTF_8);
    /** The time of the first record that the golden folders hold: 2023-11-14T22:13:20Z. */
    static final long T0 = 1_700_000_000_000L;

    public static void main(String[] args) throws Exception {
        String broker = args[1];
        switch (args[0]) {
            case "create" -> create(broker, Files.readAllLines(Path.of(args[2])));
            case "golden" -> golden(broker, Integer.parseInt(args[2]));
            case "records" -> records(broker, args[2]);
            case "questions" -> questions(broker);
            case "append" -> append(broker, new TopicPartition(args[2], 0));
            case "coordinators" -> coordinators(broker);
            case "ask" -> ask(broker, Files.readAllLines(Path.of(args[2])));
            default -> throw new IllegalArgumentException(args[0]);
        }
        OUT.flush();
        // Open transactions stay open: no producer is closed.
        Runtime.getRuntime().halt(OUT.checkError() ? 1 : 0);
    }

    // ------------------------------------------------------------------------------------ topics

    static Admin admin(String broker) {
        return Admin.create(Map.of("bootstrap.servers", broker));
    }

    static void create(String broker, List<String> lines) throws Exception {
        try (Admin admin = admin(broker)) {
            List<NewTopic> topics = new ArrayList<>();
            for (String line : lines) {
                String[] words = line.trim().split("\\s+");
                Map<String, String> settings = new TreeMap<>();
                for (int i = 2; i < words.length; i++) {
                    String[] pair = words[i].split("=", 2);
                    settings.put(pair[0], pair[1]);
                }
                topics.add(new NewTopic(words[0], Integer.parseInt(words[1]), (short) 1).configs(settings));
            }
            admin.createTopics(topics).all().get();
        }
    }

    /** The partitions of all topics that are not internal, by name and number. */
    static List<TopicPartition> partitions(String broker) throws Exception {
        try (Admin admin = admin(broker)) {
            TreeSet<String> names = new TreeSet<>(admin.listTopics().names().get());
            names.removeIf(name -> name.startsWith("__"));
            List<TopicPartition> all = new ArrayList<>();
            var topics = new TreeMap<>(admin.describeTopics(names).allTopicNames().get());
            topics.forEach((name, topic) -> {
                for (int number = 0; number < topic.partitions().size(); number++) {
                    all.add(new TopicPartition(name, number));
                }
            });
            return all;
        }
    }

    // ------------------------------------------------------------------------------------ reading

    static KafkaConsumer<byte[], byte[]> consumer(String broker, String isolation) {
        Properties p = new Properties();
        p.put("bootstrap.servers", broker);
        p.put("isolation.level", isolation);
        p.put("enable.auto.commit", "false");
        p.put("auto.offset.reset", "none");
        p.put("fetch.max.wait.ms", "50");
        p.put("max.poll.records", "10000");
        return new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    static void records(String broker, String isolation) throws Exception {
        try (var consumer = consumer(broker, isolation)) {
            for (TopicPartition at : partitions(broker)) {
                long end = begin(consumer, at);
                consumer.seekToBeginning(List.of(at));
                while (consumer.position(at) < end) {
                    for (var record : consumer.poll(Duration.ofSeconds(1))) OUT.println(json(record));
                }
            }
        }
    }

    /** Takes the partition, and says where reading ends. */
    static long begin(KafkaConsumer<byte[], byte[]> consumer, TopicPartition at) {
        consumer.assign(List.of(at));
        return consumer.endOffsets(List.of(at)).get(at);
    }

    static void questions(String broker) throws Exception {
        try (var consumer = consumer(broker, "read_uncommitted")) {
            for (TopicPartition at : partitions(broker)) {
                TreeSet<Long> times = new TreeSet<>(List.of(0L));
                long end = begin(consumer, at);
                long start = consumer.beginningOffsets(List.of(at)).get(at);
                consumer.seek(at, start);
                while (consumer.position(at) < end) {
                    for (var record : consumer.poll(Duration.ofSeconds(1))) {
                        for (long by = -1; by <= 1; by++) times.add(Math.max(0, record.timestamp() + by));
                    }
                }
                String head = at.topic() + " " + at.partition() + " ";
                for (String what : List.of("start 0", "end read_committed", "end read_uncommitted", "latest-time 0")) {
                    OUT.println(head + what);
                }
                List<Long> offsets = new ArrayList<>();
                for (long offset = start; offset <= end; offset++) offsets.add(offset);
                for (long time : some(new ArrayList<>(times))) OUT.println(head + "time " + time);
                for (long offset : some(offsets)) {
                    OUT.println(head + "read_committed " + offset);
                    OUT.println(head + "read_uncommitted " + offset);
                }
            }
        }
    }

    /** About a hundred of them, the first and the last one with certainty. */
    static List<Long> some(List<Long> all) {
        int step = all.size() / 100 + 1;
        List<Long> some = new ArrayList<>();
        for (int i = 0; i < all.size(); i += step) some.add(all.get(i));
        if (!all.isEmpty() && !some.contains(all.get(all.size() - 1))) some.add(all.get(all.size() - 1));
        return some;
    }

    static void ask(String broker, List<String> lines) throws Exception {
        try (Admin admin = admin(broker);
                var committed = consumer(broker, "read_committed");
                var uncommitted = consumer(broker, "read_uncommitted")) {
            for (String line : lines) {
                String[] word = line.split(" ");
                TopicPartition at = new TopicPartition(word[0], Integer.parseInt(word[1]));
                String answer = switch (word[2]) {
                    case "start" -> "" + uncommitted.beginningOffsets(List.of(at)).get(at);
                    case "end" -> "" + (word[3].equals("read_committed") ? committed : uncommitted)
                        .endOffsets(List.of(at)).get(at);
                    case "latest-time" -> {
                        var found = admin.listOffsets(Map.of(at, OffsetSpec.maxTimestamp())).partitionResult(at).get();
                        yield found.offset() < 0 ? "none" : found.offset() + " " + found.timestamp();
                    }
                    case "time" -> {
                        OffsetAndTimestamp found = uncommitted.offsetsForTimes(Map.of(at, Long.parseLong(word[3]))).get(at);
                        yield found == null ? "none" : found.offset() + " " + found.timestamp();
                    }
                    case "read_committed" -> first(committed, at, Long.parseLong(word[3]));
                    case "read_uncommitted" -> first(uncommitted, at, Long.parseLong(word[3]));
                    default -> throw new IllegalArgumentException(line);
                };
                OUT.println(String.join(" ", word[0], word[1], word[2], word[3], answer));
            }
        }
    }

    static void append(String broker, TopicPartition at) throws Exception {
        var to = producer(broker, "none", null);
        var sent = to.send(new ProducerRecord<>(at.topic(), at.partition(), null, bytes("appended")));
        to.flush();
        sent.get();
        try (var consumer = consumer(broker, "read_uncommitted")) {
            long end = begin(consumer, at);
            consumer.seekToBeginning(List.of(at));
            String found = "none";
            while (consumer.position(at) < end) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    if ("appended".equals(new String(record.value(), StandardCharsets.UTF_8))) found = "" + record.offset();
                }
            }
            OUT.println(found);
        }
    }

    static void coordinators(String broker) throws Exception {
        TreeSet<String> lines = new TreeSet<>();
        try (Admin admin = admin(broker)) {
            for (var group : admin.listGroups().all().get()) {
                String id = group.groupId();
                admin.listConsumerGroupOffsets(id).partitionsToOffsetAndMetadata().get().forEach((at, stored) ->
                    lines.add(String.join(" ", "group", id, at.topic(), "" + at.partition(), "" + stored.offset(),
                        "" + stored.leaderEpoch().orElse(-1), stored.metadata()).trim()));
            }
            for (var one : admin.listTransactions().all().get()) {
                lines.add("transaction " + one.transactionalId() + " " + one.state());
            }
        }
        lines.forEach(OUT::println);
    }

    static String first(KafkaConsumer<byte[], byte[]> consumer, TopicPartition at, long offset) {
        long end = begin(consumer, at);
        consumer.seek(at, offset);
        while (consumer.position(at) < end) {
            for (var record : consumer.poll(Duration.ofSeconds(1))) return "" + record.offset();
        }
        return "none";
    }

    static String json(ConsumerRecord<byte[], byte[]> r) {
        StringBuilder s = new StringBuilder();
        s.append("{\"topic\":").append(text(r.topic().getBytes(StandardCharsets.UTF_8)));
        s.append(",\"partition\":").append(r.partition()).append(",\"offset\":").append(r.offset());
        s.append(",\"timestamp\":").append(r.timestamp());
        s.append(",\"timestamp_type\":\"").append(r.timestampType()).append("\"");
        s.append(",\"key\":").append(text(r.key())).append(",\"value\":").append(text(r.value())).append(",\"headers\":[");
        String comma = "";
        for (Header h : r.headers()) {
            s.append(comma).append("{\"key\":").append(text(h.key().getBytes(StandardCharsets.UTF_8)));
            s.append(",\"value\":").append(text(h.value())).append("}");
            comma = ",";
        }
        return s.append("],\"epoch\":").append(r.leaderEpoch().orElse(-1)).append("}").toString();
    }

    static String text(byte[] bytes) {
        if (bytes == null) return "null";
        String text;
        try {
            text = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString();
        } catch (CharacterCodingException e) {
            return "{\"base64\":\"" + Base64.getEncoder().encodeToString(bytes) + "\"}";
        }
        StringBuilder s = new StringBuilder("\"");
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c == '"' || c == '\\') s.append('\\').append(c);
            else if (c < ' ') s.append(String.format("\\u%04x", (int) c));
            else s.append(c);
        }
        return s.append('"').toString();
    }

    // ------------------------------------------------------------------------------------ the golden folders

    static final String[] CODECS = {"none", "gzip", "snappy", "lz4", "zstd"};

    static KafkaProducer<byte[], byte[]> producer(String broker, String codec, String transactionalId) {
        Properties p = new Properties();
        p.put("bootstrap.servers", broker);
        p.put("compression.type", codec);
        // A batch ends where it is flushed.
        p.put("linger.ms", "10000");
        p.put("batch.size", "" + (1 << 20));
        p.put("max.request.size", "" + (4 << 20));
        if (transactionalId != null) {
            p.put("transactional.id", transactionalId);
            p.put("transaction.timeout.ms", "900000");
        }
        var producer = new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer());
        if (transactionalId != null) producer.initTransactions();
        return producer;
    }

    static byte[] bytes(String text) {
        return text == null ? null : text.getBytes(StandardCharsets.UTF_8);
    }

    static void send(KafkaProducer<byte[], byte[]> to, String topic, int partition, long time, String key, String value) {
        to.send(new ProducerRecord<>(topic, partition, time, bytes(key), bytes(value)));
    }

    static void golden(String broker, int stage) throws Exception {
        switch (stage) {
            case 1 -> {
                create(broker, List.of(
                    "codec-none 1", "codec-gzip 1", "codec-snappy 1", "codec-lz4 1", "codec-zstd 1",
                    "append-time 1 message.timestamp.type=LogAppendTime",
                    "append-time-zstd 1 message.timestamp.type=LogAppendTime compression.type=zstd",
                    "compacted 1 cleanup.policy=compact segment.ms=100 min.cleanable.dirty.ratio=0.001",
                    "compacted-away 1 cleanup.policy=compact segment.ms=100 min.cleanable.dirty.ratio=0.001 delete.retention.ms=0",
                    "cut 1 segment.bytes=1048576", "empty 1", "epochs 1", "segments 1 segment.bytes=1048576",
                    "transactions 2"));
                for (String codec : CODECS) everyShape(producer(broker, codec, null), "codec-" + codec);
                appendTime(broker, "append-time");
                appendTime(broker, "append-time-zstd");
                List<String> cleaned = List.of("compacted", "compacted-away");
                for (String topic : cleaned) compacted(broker, topic);
                for (int turn = 0; turn < 2; turn++) {
                    for (String topic : cleaned) overwrite(broker, topic);
                    settle(broker, cleaned);
                }
                segments(broker, "segments", 420);
                segments(broker, "cut", 200);
                try (Admin admin = admin(broker)) {
                    var at = new TopicPartition("cut", 0);
                    admin.deleteRecords(Map.of(at, RecordsToDelete.beforeOffset(150))).all().get();
                }
                transactions(broker, T0, 1);
            }
            case 2 -> {
                transactions(broker, T0 + 60_000, 2);
                var open = producer(broker, "none", "left-open");
                open.beginTransaction();
                for (int n = 0; n < 3; n++) send(open, "transactions", 0, T0 + 70_000 + n, "open", "undecided " + n);
                open.flush();
                transactions(broker, T0 + 80_000, 3);
                positions(broker);
            }
            case 3 -> {
                for (String codec : CODECS) everyShape(producer(broker, codec, null), "codec-" + codec);
                segments(broker, "segments", 60);
                var open = producer(broker, "lz4", "left-open-by-a-kill");
                open.beginTransaction();
                for (int n = 0; n < 3; n++) send(open, "transactions", 1, T0 + 90_000 + n, "open", "undecided " + n);
                open.flush();
            }
            default -> throw new IllegalArgumentException("stage " + stage);
        }
        // A record a stage, each under another leader epoch.
        var plain = producer(broker, "none", null);
        for (int n = 0; n < 3; n++) send(plain, "epochs", 0, T0 + 1000L * stage + n, "stage-" + stage, "record " + n);
        plain.flush();
    }

    /** Null and empty keys, values and headers; text, bytes; times that go back; small and large batches. */
    static void everyShape(KafkaProducer<byte[], byte[]> to, String topic) {
        String[] keys = {null, "", "key", "schl\u00fcssel \"\\\"\n"};
        String[] values = {null, "", "value", "wert \u00fcber alles \ud83c\udf0d\t"};
        to.send(new ProducerRecord<>(topic, 0, T0, bytes("alone"), bytes("in its batch")));
        to.flush();
        int n = 0;
        for (String key : keys) {
            for (String value : values) {
                var record = new ProducerRecord<>(topic, 0, T0 + 1000 - 37L * n, bytes(key), bytes(value));
                if (n % 3 == 1) record.headers().add("n", bytes("" + n)).add("null", null).add("n", bytes(""));
                if (n % 3 == 2) record.headers().add("", new byte[] {0, (byte) 0xff, 1});
                to.send(record);
                n++;
            }
        }
        to.send(new ProducerRecord<>(topic, 0, 0L, new byte[] {(byte) 0xfe, 0}, new byte[] {(byte) 0x80}));
        to.flush();
        // Beyond one block of every codec's stream, and of times far apart.
        for (n = 0; n < 150; n++) {
            send(to, topic, 0, T0 + 2000 + (n % 7) * 5_000_000L, "large-" + n, ("line " + n + " of many; ").repeat(64));
        }
        to.flush();
    }

    static void appendTime(String broker, String topic) {
        var to = producer(broker, "none", null);
        for (int batch = 0; batch < 3; batch++) {
            for (int n = 0; n < 5; n++) send(to, topic, 0, T0 + n, "k" + n, "batch " + batch);
            to.flush();
        }
    }

    /**
     * Values that are overwritten, tombstones, and transactions. Every batch begins a segment, markers too:
     * they carry the time of the machine, so the records do here as well.
     */
    static void compacted(String broker, String topic) throws Exception {
        var plain = producer(broker, "none", null);
        for (int round = 0; round < 6; round++) {
            for (int n = 0; n < 8; n++) {
                boolean gone = n == 7 && round == 3 || n == 6 && round == 5;
                sendNow(plain, topic, "k" + n, gone ? null : "round " + round);
            }
            flush(plain);
        }
        var committed = producer(broker, "zstd", topic + "-committed");
        var aborted = producer(broker, "none", topic + "-aborted");
        for (int round = 6; round < 9; round++) {
            for (var to : List.of(committed, aborted)) {
                to.beginTransaction();
                for (int n = 0; n < 4; n++) {
                    sendNow(to, topic, "k" + n, (to == committed ? "committed " : "aborted ") + round);
                }
                flush(to);
                if (to == committed) to.commitTransaction(); else to.abortTransaction();
                Thread.sleep(150);
            }
        }
        // Producers whose every record goes away: their last batch stays, without records.
        for (int n = 0; n < 3; n++) {
            var one = producer(broker, "none", null);
            sendNow(one, topic, "passing", n == 2 ? null : "value " + n);
            flush(one);
        }
    }

    /** Closes the segment before, so that the cleaner comes to it; what is written last stays as it is. */
    static void overwrite(String broker, String topic) throws Exception {
        var plain = producer(broker, "none", null);
        for (int n = 0; n < 3; n++) {
            sendNow(plain, topic, "last", "value " + n);
            flush(plain);
        }
    }

    static void sendNow(KafkaProducer<byte[], byte[]> to, String topic, String key, String value) {
        send(to, topic, 0, System.currentTimeMillis(), key, value);
    }

    /** Ends the batch, and lets more time pass than a segment may hold. */
    static void flush(KafkaProducer<byte[], byte[]> to) throws Exception {
        to.flush();
        Thread.sleep(150);
    }

    /** Waits until the cleaner finds no more to do. */
    static void settle(String broker, List<String> topics) throws Exception {
        try (var consumer = consumer(broker, "read_uncommitted")) {
            long begun = System.currentTimeMillis(), changed = begun;
            for (int before = -1, now = 0; System.currentTimeMillis() < changed + 5000; before = now) {
                now = 0;
                for (String topic : topics) {
                    TopicPartition at = new TopicPartition(topic, 0);
                    long end = begin(consumer, at);
                    consumer.seekToBeginning(List.of(at));
                    while (consumer.position(at) < end) now += consumer.poll(Duration.ofSeconds(1)).count();
                }
                if (now != before) changed = System.currentTimeMillis();
                if (changed > begun + 60_000) throw new IllegalStateException("the cleaner finds no end: " + topics);
                Thread.sleep(500);
            }
        }
    }

    /** Batches of some 8 KiB, a second of time each; every tenth is a quarter of a minute late. */
    static void segments(String broker, String topic, int batches) {
        var to = producer(broker, "none", null);
        for (int n = 0; n < batches; n++) {
            long time = T0 + 1000L * n - (n % 10 == 9 ? 15_000 : 0);
            send(to, topic, 0, time, "batch-" + n, ("the value of batch " + n + ". ").repeat(330));
            to.flush();
        }
    }

    /** Positions of a group: outside of a transaction, and inside of one that commits and one that aborts. */
    static void positions(String broker) {
        var at = new TopicPartition("segments", 0);
        Properties p = new Properties();
        p.put("bootstrap.servers", broker);
        p.put("group.id", "readers");
        p.put("enable.auto.commit", "false");
        var consumer = new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        consumer.commitSync(Map.of(new TopicPartition("epochs", 0), new OffsetAndMetadata(3, Optional.of(0), "by hand")));
        consumer.commitSync(Map.of(at, new OffsetAndMetadata(17)));
        var producer = producer(broker, "none", "positions");
        for (int offset : new int[] {20, 400}) {
            producer.beginTransaction();
            producer.sendOffsetsToTransaction(Map.of(at, new OffsetAndMetadata(offset)), consumer.groupMetadata());
            if (offset == 20) producer.commitTransaction(); else producer.abortTransaction();
        }
        p.put("group.id", "members");
        p.put("group.protocol", "consumer");
        var member = new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        member.subscribe(List.of("epochs"));
        while (member.assignment().isEmpty()) member.poll(Duration.ofMillis(100));
        member.commitSync(Map.of(new TopicPartition("epochs", 0), new OffsetAndMetadata(1)));
        member.close();
    }

    /** Commits and aborts that lie inside each other, over both partitions, with data of others between. */
    static void transactions(String broker, long time, int round) throws Exception {
        var first = producer(broker, "none", "first");
        var second = producer(broker, "lz4", "second");
        var plain = producer(broker, "none", null);
        String[] ends = {"commit", "abort", "commit", "abort", "abort"};
        for (int n = 0; n < ends.length; n++) {
            first.beginTransaction();
            second.beginTransaction();
            for (int part = 0; part < 2; part++) {
                send(first, "transactions", n % 2, time + 100 * n + part, "first", round + "/" + n + " " + ends[n]);
                send(second, "transactions", part, time + 100 * n + part, "second", round + "/" + n + " " + ends[4 - n]);
                first.flush();
                second.flush();
                send(plain, "transactions", part, time + 100 * n + part, null, "of no transaction " + round + "/" + n);
                plain.flush();
            }
            if (ends[n].equals("commit")) first.commitTransaction(); else first.abortTransaction();
            if (ends[4 - n].equals("commit")) second.commitTransaction(); else second.abortTransaction();
        }
    }
}
