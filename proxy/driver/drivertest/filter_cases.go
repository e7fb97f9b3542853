// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"strconv"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var filterCases = []testCase{
	{name: "a tag filter brings its tags only, also where tags have equal hashes", run: caseTags},
	{name: "an empty tag filter and a star bring everything", run: caseAllTags},
	{name: "an SQL filter brings what it matches only", run: caseSQL},
	{name: "an SQL filter reads numbers, strings and booleans, and what is missing or of another type does not match", run: caseSQLTypes},
	{name: "several subscriptions with different filters bring what each wants", run: caseSubscriptions},
	{name: "tag, SQL and no filter in one group: what does not match never comes, not as a retry and not to a client that starts later", run: caseFilteredStaysAway},
}

// tagged makes one message per tag.
func tagged(topic string, tags ...string) []*driver.Message {
	msgs := messages(topic, len(tags))
	for i, tag := range tags {
		msgs[i].Tag = tag
	}
	return msgs
}

// choose picks messages by their place.
func choose(msgs []*driver.Message, places ...int) []*driver.Message {
	var chosen []*driver.Message
	for _, i := range places {
		chosen = append(chosen, msgs[i])
	}
	return chosen
}

// brings demands that a new group with sub gets exactly want.
func (k *kit) brings(sub driver.Subscription, want []*driver.Message) {
	k.Helper()
	c := k.consumerOf(k.consumerConfig(k.h.NewGroup(k), driver.Earliest, sub))
	k.Logf("the filter %s%s", sub.Tag, sub.SQL) // for what fails from here on
	got := k.fetch(c, len(want), longLease)
	k.wantSame(want, got)
	k.ack(c, got...)
	k.fetchNone(c, k.facts.Quiet, "the filter "+sub.Tag+sub.SQL+" matches nothing more")
	k.closing("consumer", c)
}

func caseTags(k *kit) {
	topic := k.h.NewTopic(k, 2)
	// "Aa" and "BB" have the same hash in Java, by which brokers filter first.
	sent := tagged(topic, "Aa", "BB", "", "a", "b", "c", "Aa", "BB", "ab")
	k.send(k.producer(topic), sent...)
	k.brings(driver.Subscription{Topic: topic, Tag: "Aa"}, choose(sent, 0, 6))
	k.brings(driver.Subscription{Topic: topic, Tag: "BB"}, choose(sent, 1, 7))
	k.brings(driver.Subscription{Topic: topic, Tag: "a || b"}, choose(sent, 3, 4))
	k.brings(driver.Subscription{Topic: topic, Tag: "c||BB"}, choose(sent, 1, 5, 7))
}

func caseAllTags(k *kit) {
	topic := k.h.NewTopic(k, 2)
	sent := tagged(topic, "", "a", "b")
	k.send(k.producer(topic), sent...)
	k.brings(driver.Subscription{Topic: topic}, sent)
	k.brings(driver.Subscription{Topic: topic, Tag: "*"}, sent)
}

func caseSQL(k *kit) {
	if !k.facts.SQL {
		k.Skip("the broker has SQL filters switched off")
	}
	topic := k.h.NewTopic(k, 2)
	sent := tagged(topic, "t0", "t1", "t2", "t3", "t4", "")
	for i, m := range sent {
		m.Properties = map[string]string{"n": strconv.Itoa(i), "region": []string{"eu", "us"}[i%2], "flag": strconv.FormatBool(i < 3)}
	}
	sent[4].Properties["extra"] = "x"
	k.send(k.producer(topic), sent...)
	for sql, places := range map[string][]int{
		"n > 3":                                    {4, 5},
		"n >= 1 AND n < 3":                         {1, 2},
		"n BETWEEN 2 AND 4":                        {2, 3, 4},
		"region = 'us'":                            {1, 3, 5},
		"region <> 'us' AND n <> 0":                {2, 4},
		"region IN ('us', 'asia') OR n = 0":        {0, 1, 3, 5},
		"extra IS NOT NULL":                        {4},
		"extra IS NULL AND (n = 1 OR n = 2)":       {1, 2},
		"NOT (n > 0)":                              {0},
		"TAGS = 't3'":                              {3},
		"TAGS IS NOT NULL AND TAGS IN ('t1','t2')": {1, 2},
		"flag = TRUE AND region = 'eu'":            {0, 2},
	} {
		k.brings(driver.Subscription{Topic: topic, SQL: sql}, choose(sent, places...))
	}
}

func caseSubscriptions(k *kit) {
	first, second, third := k.h.NewTopic(k, 2), k.h.NewTopic(k, 1), k.h.NewTopic(k, 1)
	p := k.producer(first, second, third)
	inFirst, inSecond, inThird := tagged(first, "a", "b", "a"), tagged(second, "a", "b"), tagged(third, "b")
	k.send(p, inFirst...)
	k.send(p, inSecond...)
	k.send(p, inThird...)
	cfg := k.consumerConfig(k.h.NewGroup(k), driver.Earliest, driver.Subscription{Topic: first, Tag: "a"}, driver.Subscription{Topic: second})
	c := k.consumerOf(cfg)
	got := k.fetch(c, 4, longLease)
	k.wantSame(append(choose(inFirst, 0, 2), inSecond...), got)
	k.ack(c, got...)
	k.fetchNone(c, k.facts.Quiet, "nothing else is subscribed")
}

func caseSQLTypes(k *kit) {
	if !k.facts.SQL {
		k.Skip("the broker has SQL filters switched off")
	}
	topic := k.h.NewTopic(k, 1)
	sent := messages(topic, 6)
	for i, properties := range []map[string]string{
		{"amount": "10", "name": "seven", "paid": "true"},
		{"amount": "-2.5", "name": "O'Hara", "paid": "false"},
		{"amount": "9007199254740993", "name": "groß", "paid": "TRUE"},
		{"amount": "many", "name": "10", "paid": "yes"},
		{"other": "1.5"},
		nil,
	} {
		sent[i].Properties = properties
	}
	k.send(k.producer(topic), sent...)
	for sql, places := range map[string][]int{
		"amount > 9.5":                      {0, 2},
		"amount = 10":                       {0},
		"amount < -0.5":                     {1},
		"amount = 9007199254740993":         {2},
		"amount NOT BETWEEN -3.5 AND 10.5":  {2},
		"other >= 1.5":                      {4},
		"name = '10'":                       {3},
		"name = 'O''Hara' OR name = 'groß'": {1, 2},
		"name NOT IN ('seven', '10')":       {1, 2},
		"paid = TRUE":                       {0, 2},
		"paid = FALSE":                      {1, 3}, // what is not true is false
		"paid IS NULL":                      {4, 5},
		// A property is read as the type of the number that it is compared with. Where that cannot be, the filter ends without a match.
		"amount < 0":                              {},
		"amount > -3":                             {0}, // the one of 54 bits is none of 32
		"amount > 0 OR paid = FALSE":              {0},
		"paid = FALSE OR amount > 0":              {0, 1, 3},
		"NOT (amount > 0.5) AND paid IS NOT NULL": {1},
	} {
		k.brings(driver.Subscription{Topic: topic, SQL: sql}, choose(sent, places...))
	}
}

func caseFilteredStaysAway(k *kit) {
	byTag, bySQL, all := k.h.NewTopic(k, 2), k.h.NewTopic(k, 2), k.h.NewTopic(k, 1)
	p := k.producer(byTag, bySQL, all)
	second := driver.Subscription{Topic: bySQL, SQL: "n >= 2 AND n IS NOT NULL"}
	if !k.facts.SQL {
		second = driver.Subscription{Topic: bySQL, Tag: "a"}
	}
	cfg := k.consumerConfig(k.h.NewGroup(k), driver.Earliest, driver.Subscription{Topic: byTag, Tag: "a || b"}, second, driver.Subscription{Topic: all})
	round := func() (want []*driver.Message) {
		inTag, inSQL, inAll := tagged(byTag, "a", "c", "b", ""), tagged(bySQL, "", "c", "a", "a"), tagged(all, "", "c")
		for i, m := range inSQL {
			m.Properties = map[string]string{"n": strconv.Itoa(i)}
		}
		for _, msgs := range [][]*driver.Message{inTag, inSQL, inAll} {
			k.send(p, msgs...)
		}
		return append(append(choose(inTag, 0, 2), choose(inSQL, 2, 3)...), inAll...)
	}
	want := round()
	c := k.consumerOf(cfg)
	got := k.fetch(c, len(want), longLease)
	k.wantSame(want, got)
	for _, r := range got { // each comes once more: a retry passes the filter as its original did
		if _, err := c.Nack(k.within(k.facts.Open), r.Handle, k.facts.Nack); err != nil {
			k.Fatalf("nack %s: %v", r.ID, err)
		}
	}
	got = k.fetchWithin(c, len(want), longLease, k.facts.Nack+k.facts.Late+k.facts.Open)
	k.wantSame(want, got)
	k.ack(c, got...)
	k.fetchNone(c, k.facts.Quiet, "what matches is acknowledged, and nothing else is wanted")
	k.closing("consumer", c)
	cfg.ClientID = clientID()
	want = round()
	c = k.consumerOf(cfg)
	got = k.fetch(c, len(want), longLease)
	k.wantSame(want, got)
	k.ack(c, got...)
	k.fetchNone(c, k.facts.Quiet, "the client was closed and opened; what did not match before is not wanted now")
}
